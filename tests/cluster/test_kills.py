"""Kills at random moments over transcription and resynthesis: what was done stays, and nothing is done twice."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.io.audio import audio_info, write_audio
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.resume_log import read_resume_log
from speechdlm_ext.units.codebook import Codebook
from tests.helpers.commands import CHECKOUT, environment
from tests.helpers.ctc_checkpoints import small_recogniser
from tests.helpers.processes import start_loaded

pytestmark = [pytest.mark.slow, pytest.mark.long]

KILLS = 26  # of each command
RECORDINGS = 600


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(RECORDINGS):
        path = folder / "talk" / f"{number:03d}.wav"
        wave = 0.3 * torch.randn(1, 4000 + 10 * number, generator=torch.Generator().manual_seed(number))
        write_audio(path, wave.clamp(-1, 1), 16000)
        rows.append({"audio_filepath": str(path), "duration": wave.shape[1] / 16000, "mine": number})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_to_the_end(words: list[str], folder: Path, log: Path, look: Callable[[], None]) -> int:
    """Run and kill until a run has ended by itself: some while they start, most after they have begun with their work.

    Returns:
        The kills.
    """
    chance, kills = random.Random(1), 0
    while True:
        process = start_loaded(words, str(folder), env=environment(None))
        if kills >= KILLS:
            process.join(300)
        elif kills % 5:
            size, end = log.stat().st_size if log.exists() else 0, time.monotonic() + 100
            while (
                process.exitcode is None and time.monotonic() < end and (not log.exists() or log.stat().st_size <= size)
            ):
                process.join(0.01)
            process.join(chance.uniform(0.0, 0.2))
        else:
            process.join(chance.uniform(0.0, 2.0))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            look()
            continue
        assert process.exitcode == 0, (folder / "err").read_text()
        return kills


def test_transcription_survives_kills(manifest: Path, tmp_path: Path) -> None:
    base = [str(CHECKOUT / "scripts" / "transcribe.py"), str(manifest)]
    options = ["--asr", small_recogniser(tmp_path / "model"), "--device", "cpu", "--batch-seconds", "5"]
    undisturbed = start_loaded([*base, str(tmp_path / "once.jsonl"), *options], str(tmp_path), env=environment(None))
    undisturbed.join(300)
    assert undisturbed.exitcode == 0, (tmp_path / "err").read_text()
    partial, output = tmp_path / "often.jsonl.partial", tmp_path / "often.jsonl"
    counts: list[int] = [0]

    def look() -> None:
        if output.exists():
            return
        lines = partial.read_bytes().splitlines()[1:] if partial.exists() else []
        whole = len(read_resume_log(partial)[1]) if partial.exists() else 0
        assert counts[-1] <= whole and len(lines) - whole <= 1  # the last one may be cut off; none is there twice
        counts.append(whole)

    kills = run_to_the_end([*base, str(output), *options], tmp_path, partial, look)
    assert kills >= 20 and len(set(counts)) >= 10
    assert output.read_bytes() == (tmp_path / "once.jsonl").read_bytes() and not partial.exists()


def test_resynthesis_survives_kills(manifest: Path, tmp_path: Path) -> None:
    encoder = LogMelEncoder()
    centroids = torch.randn(20, encoder.dim, generator=torch.Generator().manual_seed(1))
    Codebook(centroids).for_encoder(encoder).save(tmp_path / "codebook.safetensors")
    words = [str(CHECKOUT / "scripts" / "resynthesize.py"), str(manifest), "talk", "--device", "cpu", "--output",
             str(tmp_path / "output"), "--codebook", str(tmp_path / "codebook.safetensors")]  # fmt: skip
    made: dict[str, int] = {}

    def look() -> None:
        for name, entry in read_resume_log(tmp_path / "output" / "talk" / ".resynthesized")[1].items():
            path = tmp_path / "output" / "talk" / name
            if not path.exists():  # in the log before it is there, so that it is never taken for somebody else's
                continue
            number = int(path.stem)
            assert audio_info(path).frames == 4000 + 10 * number, entry  # whole
            assert made.setdefault(name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns  # and made once

    journal = tmp_path / "output" / "talk" / ".resynthesized"
    kills = run_to_the_end(words, tmp_path, journal, look)
    look()
    assert kills >= 20 and len(made) == len(read_jsonl(manifest)) == RECORDINGS
    assert len([name for name in os.listdir(tmp_path / "output" / "talk") if name.endswith(".wav")]) == RECORDINGS
