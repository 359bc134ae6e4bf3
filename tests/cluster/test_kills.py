"""Kills at random moments over the four pipelines of a corpus: what was done stays, and nothing is done twice.

``SPEECHDLM_KILLS`` says how many kills of each. A run on a fast machine may end before it was killed so often: then it
is made again under another name, until there were as many.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.resume_log import read_resume_log
from tests.helpers.commands import CHECKOUT, environment
from tests.helpers.ctc_checkpoints import small_recogniser
from tests.helpers.noise_corpus import write_noise_corpus
from tests.helpers.processes import start_loaded

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("SPEECHDLM_KILLS", "8"))
RECORDINGS = 100 + 12 * KILLS
LONGEST = 0.15  # seconds from a result to the kill


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise_corpus(tmp_path_factory.mktemp("corpus"), range(4000, 4000 + 10 * RECORDINGS, 10))


def run_to_the_end(words: list[str], folder: Path, log: Path, look: Callable[[], None], chance: random.Random) -> int:
    """Run and kill until a run has ended by itself: a fifth while they start, the others once they have a result.

    Returns how often it was killed after a result.
    """
    kills, working = 0, 0
    while True:
        process = start_loaded(words, str(folder), env=environment(None))
        size = log.stat().st_size if log.exists() else 0
        if kills == 2 * KILLS:
            process.join(300)
        elif kills % 5 != 4:
            end = time.monotonic() + 300
            while process.exitcode is None and time.monotonic() < end and not has_grown(log, size):
                process.join(0.005)
            process.join(chance.uniform(0.0, LONGEST))
        else:
            process.join(chance.uniform(0.0, 2.0))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            working += has_grown(log, size)
            look()
            continue
        assert process.exitcode == 0, (folder / "err").read_text()
        print(f"{kills} kills of {Path(words[0]).name}, {working} of them after a result")
        return working


def has_grown(log: Path, size: int) -> bool:
    return log.exists() and log.stat().st_size > max(size, 500)  # more than its first line


@pytest.mark.parametrize("pipeline", ["detect_speech", "transcribe", "encode_units"])
def test_a_manifest_is_that_of_an_undisturbed_run(corpus: Path, tmp_path: Path, pipeline: str) -> None:
    (script,) = (CHECKOUT / folder / f"{pipeline}.py" for folder in ("data_prep", "scripts")
                 if (CHECKOUT / folder / f"{pipeline}.py").exists())  # fmt: skip
    ending = "" if pipeline == "detect_speech" else ".jsonl"
    options = {
        "detect_speech": ["--vad", "energy", "--num-workers", "1"],
        "encode_units": ["--codebook", str(corpus / "codebook.safetensors"), "--device", "cpu"],
        "transcribe": ["--asr", small_recogniser(tmp_path / "model"), "--device", "cpu", "--batch-seconds", "5"],
    }[pipeline]  # fmt: skip

    def words(name: str) -> list[str]:
        return [str(script), str(corpus / "manifest.jsonl"), str(tmp_path / f"{name}{ending}"), *options]

    undisturbed = start_loaded(words("once"), str(tmp_path), env=environment(None))
    undisturbed.join(300)
    assert undisturbed.exitcode == 0, (tmp_path / "err").read_text()
    chance, kills, number = random.Random(1), 0, 0
    while kills < KILLS:
        output = tmp_path / f"often{number}.jsonl"
        partial = output.with_name(output.name + ".partial")
        counts = [0]

        def look(output: Path = output, partial: Path = partial, counts: list[int] = counts) -> None:
            if output.exists():
                return
            lines = partial.read_bytes().splitlines()[1:] if partial.exists() else []
            whole = len(read_resume_log(partial)[1]) if partial.exists() else 0
            assert counts[-1] <= whole and len(lines) - whole <= 1  # the last may be cut off; none is there twice
            counts.append(whole)

        kills += run_to_the_end(words(f"often{number}"), tmp_path, partial, look, chance)
        assert output.read_bytes() == (tmp_path / "once.jsonl").read_bytes() and not partial.exists()
        assert len(read_jsonl(output)) == RECORDINGS
        number += 1


def test_resynthesis_survives_kills(corpus: Path, tmp_path: Path) -> None:
    chance, kills, run = random.Random(1), 0, 0
    while kills < KILLS:
        folder = tmp_path / "output" / f"talk{run}"
        log = folder / ".resynthesized"
        words = [str(CHECKOUT / "scripts" / "resynthesize.py"), str(corpus / "manifest.jsonl"), folder.name,
                 "--device", "cpu", "--output", str(folder.parent),
                 "--codebook", str(corpus / "codebook.safetensors")]  # fmt: skip
        made: dict[str, int] = {}

        def look(folder: Path = folder, log: Path = log, made: dict[str, int] = made) -> None:
            for name, entry in read_resume_log(log)[1].items():
                path = folder / name
                if not path.exists():  # in the log before it is there, so that it is never taken for another's
                    continue
                assert audio_info(path).frames == 4000 + 10 * int(path.stem), entry  # whole
                assert made.setdefault(name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns  # and made once

        kills += run_to_the_end(words, tmp_path, log, look, chance)
        look()
        assert len(made) == RECORDINGS
        assert len([name for name in os.listdir(folder) if name.endswith(".wav")]) == RECORDINGS
        run += 1
