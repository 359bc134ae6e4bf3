"""Manifests to text: shards, batches and kills change nothing; what is skipped, refused and named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.asr import Recogniser, RecogniserOptions, Transcript, Word
from speechdlm_ext.asr.base import SAMPLE_RATE
from speechdlm_ext.asr.chunks import cut_at_silences
from speechdlm_ext.asr.manifest_text import TextOptions, transcribe_manifest
from speechdlm_ext.asr.text_rows import without_text
from speechdlm_ext.asr.transcription import BatchSize, Transcribed, seconds_that_fit, transcribe_rows
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.merging import merge
from speechdlm_ext.vad import build_detector
from tests.helpers.commands import CHECKOUT, RunCommand, environment
from tests.helpers.ctc_checkpoints import small_recogniser


class Levels(Recogniser):
    """Says how long a chunk is, in tenths of a second, and the words' times; notes what came together."""

    def __init__(self, limit: float = float("inf")) -> None:
        self.batches: list[list[int]] = []
        self.limit = limit

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> Levels:
        return cls()

    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        if waves.numel() > self.limit * SAMPLE_RATE:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(list(lengths))
        texts = [f"{length / SAMPLE_RATE:.1f}" for length in lengths]
        return [
            Transcript(text, (Word(text, 0.0, length / SAMPLE_RATE),))
            for text, length in zip(texts, lengths, strict=True)
        ]


def bursts(seconds: float, seed: int = 0, channels: int = 1) -> torch.Tensor:
    """0.7 s of noise, 0.3 s of silence, and so on."""
    noise = 0.3 * torch.randn(channels, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(seed))
    return noise.clamp(-1, 1) * (torch.arange(noise.shape[1]) % SAMPLE_RATE < 0.7 * SAMPLE_RATE)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest as AMELA has it, without ids: one row has a text, one file is missing, one is stereo."""
    folder = tmp_path_factory.mktemp("corpus")
    rows: list[dict[str, Any]] = []
    for number in range(7):
        path = folder / f"{number}.wav"
        write_audio(path, bursts(0.5 + 0.3 * number, number, 2 if number == 3 else 1), SAMPLE_RATE)
        rows.append({"audio_filepath": str(path), "duration": round(0.5 + 0.3 * number, 3), "mine": [number]})
    rows[2]["text"] = "known"
    rows.insert(5, {"audio_filepath": str(folder / "gone.wav"), "duration": 1.0})
    rows.append({**rows[6], "offset": 0.5, "duration": 1.0})
    (folder / "manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small_recogniser(folder / "model")
    return folder


def options(corpus: Path, **more: Any) -> TextOptions:
    return TextOptions(RecogniserOptions(f"fairseq:{corpus / 'model' / 'model.pt'}", device="cpu"), **more)


def test_rows_keep_their_fields_and_gain_text(corpus: Path, tmp_path: Path) -> None:
    said: list[str] = []
    made = transcribe_manifest(corpus / "manifest.json", tmp_path / "out.json", options(corpus), say=said.append)
    before, after = read_jsonl(corpus / "manifest.json"), read_jsonl(tmp_path / "out.json")
    assert (made.rows, made.had_text, made.transcribed, made.failed) == (9, 1, 7, 1)
    assert [{**row, **{key: new[key] for key in ("text", "words") if key in new}} for row, new in
            zip(before, after, strict=True)] == after  # fmt: skip
    assert after[2]["text"] == "known" and "text" not in after[5] and len(after[3]["text"]) == 2
    assert after[6]["text"].split() == [word for word, _, _ in after[6]["words"]] and after[6]["text"]
    assert 0 < after[8]["words"][-1][2] <= 1.0 and after[8]["text"] != after[6]["text"]
    assert "gone.wav" in (tmp_path / "out.json.errors").read_text() and not (tmp_path / "out.json.partial").exists()
    assert list(without_text(tmp_path / "out.json")) == [before[5]["audio_filepath"]]
    again = transcribe_manifest(corpus / "manifest.json", tmp_path / "out.json", options(corpus), say=said.append)
    assert again == made and "complete already" in said[-1]
    write = [json.dumps(row) + "\n" for row in before[:4]]
    (tmp_path / "less.json").write_text("".join(write))
    with pytest.raises(InputError, match="is there already, with more recordings"):
        transcribe_manifest(tmp_path / "less.json", tmp_path / "out.json", options(corpus))


@pytest.mark.parametrize("batch_seconds", (0.0, 5.0))
def test_shards_merged_in_place_are_one_run(corpus: Path, tmp_path: Path, batch_seconds: float) -> None:
    whole = tmp_path / "whole.json"
    transcribe_manifest(corpus / "manifest.json", whole, options(corpus, batch_seconds=batch_seconds))
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes((corpus / "manifest.json").read_bytes())
    for index in (2, 0, 1):
        transcribe_manifest(manifest, None, options(corpus), Shard(index, 3))
    assert manifest.read_bytes() == (corpus / "manifest.json").read_bytes()
    merge(manifest, [f"{manifest}.text"], manifest)
    assert manifest.read_bytes() == whole.read_bytes()
    alone = tmp_path / "alone.json"
    alone.write_bytes((corpus / "manifest.json").read_bytes())
    transcribe_manifest(alone, None, options(corpus))
    assert alone.read_bytes() == whole.read_bytes()


def test_another_manifest_for_another_shard_is_refused(corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    lines = (corpus / "manifest.json").read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines))
    transcribe_manifest(manifest, None, options(corpus), Shard(0, 3))
    manifest.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match=r"manifest.json lists other recordings than when the first of the shards"):
        transcribe_manifest(manifest, None, options(corpus), Shard(1, 3))
    assert sorted(path.name for path in tmp_path.glob("*.text*")) == [
        "manifest.json.text.shard-0-of-3",
        "manifest.json.text.shard-1-of-3.partial",
        "manifest.json.text.shards",
    ]
    manifest.write_text("".join(lines))
    transcribe_manifest(manifest, None, options(corpus), Shard(1, 3))


def test_a_manifest_that_changes_and_a_second_run_cost_no_text(corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    lines = (corpus / "manifest.json").read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:4]))

    def meddle(items: Iterable[Transcribed], seconds: float) -> Iterator[Transcribed]:
        for item in items:
            with pytest.raises(InputError, match=r"text.partial: another run is at work on it"):
                transcribe_manifest(manifest, None, options(corpus))
            yield item
        manifest.write_text("".join(lines[:5]))

    with pytest.raises(InputError, match="was changed meanwhile: run the same command again; no text is lost"):
        transcribe_manifest(manifest, None, options(corpus), progress=meddle)
    said: list[str] = []
    transcribe_manifest(manifest, None, options(corpus), say=said.append)
    assert said == ["4 of 5 recordings have a text already"] and not list(without_text(manifest))


def test_lines_that_are_wrong_are_named(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.json"
    lines = (corpus / "manifest.json").read_text().splitlines()
    for text, found in (
        (f"{lines[0]}\n\n{{broken\n", r"m.json, line 3: not JSON"),
        (f"{lines[0]}\r\n{lines[1]}\r\n{lines[0]}\r\n", "line 3: the recording .* is that of line 1, too"),
        ('{"duration": 1}\n', "line 1: audio_filepath is missing"),
    ):
        manifest.write_text(text)
        with pytest.raises(InputError, match=found):
            transcribe_manifest(manifest, None, options(corpus))
    row = {"audio_filepath": "0.wav", "x": "é"}
    (corpus / "relative.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n\r\n")
    transcribe_manifest(corpus / "relative.json", tmp_path / "out.json", options(corpus))
    (made,) = read_jsonl(tmp_path / "out.json")
    assert made["audio_filepath"] == str(corpus / "0.wav") and made["x"] == "é" and "text" in made
    assert f"1 relative paths are taken from {corpus}" in capsys.readouterr().err


def test_batches_are_halved_and_long_recordings_cut(tmp_path: Path) -> None:
    rows = []
    for number, seconds in enumerate((3.0, 3.0, 3.0, 3.0, 31.0)):
        write_audio(tmp_path / f"{number}.wav", bursts(seconds, number), SAMPLE_RATE)
        rows.append({"audio_filepath": str(tmp_path / f"{number}.wav")})
    recogniser = Levels(limit=7.0)
    recogniser.chunk_seconds = 5.0
    batch = BatchSize(12.0, torch.device("cpu"))
    made = list(transcribe_rows(rows, recogniser, batch, build_detector("energy")))
    assert [one.channels[0].text for one in made[:4]] == ["3.0"] * 4
    assert [len(lengths) for lengths in recogniser.batches[:2]] == [2, 2] and batch.seconds == 6.0
    long = made[4].channels[0]
    assert sum(float(text) for text in long.text.split()) == pytest.approx(31.0, abs=0.4)
    bounds = [word.start for word in long.words[1:]]
    assert all(start % 1 > 0.7 for start in bounds) and len(bounds) >= 6  # in silences alone
    assert max(map(max, recogniser.batches)) <= 5 * SAMPLE_RATE
    with pytest.raises(InputError, match="not enough memory for .* take a smaller --batch-seconds"):
        list(transcribe_rows(rows[:1], Levels(limit=1.0), BatchSize(0, torch.device("cpu"))))


def test_batches_of_a_device_with_so_much_memory() -> None:
    """From two minutes, as much as 60 % of the free memory has room for, and no more than four times at once."""
    free, seconds, sizes = 80 << 30, 120.0, []
    for _ in range(4):
        seconds = seconds_that_fit(free, 20 << 20, seconds)
        sizes.append(seconds)
    assert sizes == [480.0, 1920.0, pytest.approx(0.6 * 4096), pytest.approx(0.6 * 4096)]
    assert seconds_that_fit(1 << 30, 20 << 20, 480.0) == pytest.approx(30.72)  # smaller, too
    assert seconds_that_fit(1 << 30, 0.0, 480.0) == 1920.0  # what could not be measured


def test_a_detectors_longest_silence_is_where_long_speech_is_cut() -> None:
    wave = np.ones(20 * 100, np.float32)
    speech = [(0.0, 6.0), (6.2, 8.0), (9.0, 9.4), (9.6, 20.0)]
    assert cut_at_silences(wave, 100, 10.0, speech)[0] == (0, 850)
    assert cut_at_silences(wave, 100, 10.0, [(0.0, 20.0)])[0][1] in range(500, 1001)


def test_a_signal_ends_the_command_with_its_work_kept(corpus: Path, tmp_path: Path, run_loaded: RunCommand) -> None:
    """USR1, as SLURM sends it before the time limit; then the same command, and the check."""
    rows = read_jsonl(corpus / "manifest.json")[:2]
    os.mkfifo(tmp_path / "slow.wav")  # reading waits for a writer that never comes
    rows.append({"audio_filepath": str(tmp_path / "slow.wav"), "duration": 1.0})
    manifest = tmp_path / "manifest.json"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = str(CHECKOUT / "scripts" / "transcribe.py")
    words = [
        script,
        str(manifest),
        "--in-place",
        "--asr",
        f"fairseq:{corpus / 'model' / 'model.pt'}",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, env=environment(None), text=True)
    partial = tmp_path / "manifest.json.text.partial"
    end = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") == 3) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1 and "stopped by SIGUSR1: the same command continues" in said
    os.unlink(tmp_path / "slow.wav")
    write_audio(tmp_path / "slow.wav", bursts(1.0), SAMPLE_RATE)
    done = run_loaded(["python", *words])
    assert "2 of 3 recordings have a text already" in done.stdout and "× real time" in done.stdout
    assert all("text" in row for row in read_jsonl(manifest))
    assert not list(without_text(manifest))
    manifest.write_text(manifest.read_text() + json.dumps({"audio_filepath": "/new.wav"}) + "\n")
    check = run_loaded(["python", script, str(manifest), "--check"], check=False)
    assert (check.returncode, check.stdout) == (2, "/new.wav\n") and "1 recordings have no text" in check.stderr
