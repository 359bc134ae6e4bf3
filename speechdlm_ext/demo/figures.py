"""What the demo's report says, gathered from the files that its steps made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.demo.training_log import TrainingCurves, read_curves, read_validation
from speechdlm_ext.io.audio import read_audio, read_blocks
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.metrics.events import Events, pool_events
from speechdlm_ext.metrics.intervals import Interval, crop_intervals, shift_intervals
from speechdlm_ext.metrics.ngrams import KneserNey, NgramFigures, measure_ngram
from speechdlm_ext.metrics.turn_taking import find_events
from speechdlm_ext.metrics.unit_figures import deduplicate
from speechdlm_ext.units.files import read_unit_file, row_units
from speechdlm_ext.vad.energy import Energy

_MOST_MINUTES = 60.0  # of the corpus that are measured: enough for its figures, whatever its size
_LONGEST = 300.0  # seconds that are measured at once
_AROUND = 60.0  # seconds before and after a segment that show the noise of its line
_RATE = 16000  # Hz
FRAME_RATE = 50  # Hz


@dataclass
class Piece:
    """Sound (C, N) with its speech: one sample, or the recording that its prompt was taken from."""

    name: str
    wave: NDArray[np.float32]
    sample_rate: int
    activity: list[list[Interval]]
    prompt_seconds: float
    seed: int | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.wave.shape[1] / self.sample_rate

    def continuation(self) -> Events:
        """Turn-taking after the prompt."""
        length = self.duration - self.prompt_seconds
        parts = [crop_intervals(a, self.prompt_seconds, self.duration) for a in self.activity]
        return find_events([shift_intervals(part, -self.prompt_seconds) for part in parts], length)


@dataclass
class Prompt:
    """A held-out beginning: how it really went on, and how the model went on."""

    name: str
    recording: str
    start: float
    real: Piece
    samples: list[Piece]


@dataclass
class DemoFigures:
    """Everything on the page."""

    prompts: list[Prompt]
    corpus: Events
    corpus_minutes: float
    recordings: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    curves: TrainingCurves
    validation: dict[str, float]
    unigram: NgramFigures
    bigram: NgramFigures
    steps: list[dict[str, Any]]

    def generated(self) -> Events:
        """Turn-taking of all generated continuations."""
        return pool_events(piece.continuation() for prompt in self.prompts for piece in prompt.samples)

    def real(self) -> Events:
        """Turn-taking of the real continuations of the same prompts."""
        return pool_events(prompt.real.continuation() for prompt in self.prompts)

    @property
    def model_bits(self) -> float | None:
        """Bits per edge unit on what was held out."""
        return self.validation.get("edge_token_loss")

    def beats_bigram(self) -> bool | None:
        """Whether the model's bits are below the bigram's; None without a figure."""
        return None if self.model_bits is None else self.model_bits < self.bigram.nll_loss

    def activity_ratios(self) -> list[float | None]:
        """For each channel, generated share of speech over that of the corpus; None where the corpus has no speech."""
        generated = self.generated()
        ratios: list[float | None] = []
        for channel, seconds in enumerate(self.corpus.speech):
            if not seconds or not generated.duration or channel >= len(generated.speech):
                ratios.append(None)
                continue
            ratios.append((generated.speech[channel] / generated.duration) / (seconds / self.corpus.duration))
        return ratios


def is_sane_ratio(ratio: float | None) -> bool | None:
    """Whether generated speech activity is between half and twice that of the corpus."""
    return None if ratio is None else 0.5 <= ratio <= 2.0


def gather(out: Path) -> DemoFigures:
    """Read what the demo's steps left in ``out``."""
    recordings = read_jsonl(out / "corpus" / "manifest.jsonl")
    errors = out / "corpus" / "manifest.jsonl.errors"
    corpus, minutes = _corpus_events(recordings)
    unigram, bigram = _baselines(out / "split")
    steps = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_stamps(out), key=_step_number)]
    return DemoFigures(
        prompts=list(_prompts(out, {row["id"]: row for row in recordings})),
        corpus=corpus,
        corpus_minutes=minutes,
        recordings=recordings,
        left_out=read_jsonl(errors) if errors.exists() else [],
        curves=read_curves(_lines(out / "logs" / "6-train.log")),
        validation=read_validation(_lines(out / "logs" / "7-validate.log")),
        unigram=unigram,
        bigram=bigram,
        steps=steps,
    )


def _stamps(out: Path) -> Iterable[Path]:
    return (out / "steps").glob("*.json")


def _step_number(path: Path) -> tuple[int, str]:
    return int(path.stem.split("-")[0]), path.stem


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def measure(wave: NDArray[np.float32], sample_rate: int) -> list[list[Interval]]:
    """Speech of every channel of (C, N)."""
    return Energy().detect(wave, sample_rate)


def _corpus_events(recordings: list[dict[str, Any]]) -> tuple[Events, float]:
    """Turn-taking of the corpus, long recordings in pieces, so that memory stays bounded."""
    found, seconds = [], 0.0
    for row in recordings:
        if seconds >= 60 * _MOST_MINUTES:
            break
        for block in read_blocks(row["audio_filepath"], _RATE, block_seconds=_LONGEST):
            if seconds < 60 * _MOST_MINUTES:
                wave = block.numpy()
                found.append(find_events(measure(wave, _RATE), wave.shape[1] / _RATE))
                seconds += wave.shape[1] / _RATE
    return pool_events(found), seconds / 60


def _baselines(split: Path) -> list[NgramFigures]:
    """Unigram and bigram of the units that the model is trained and judged on, the ends of lines included."""

    def sequences(name: str) -> list[list[int]]:
        channels = [channel for row in read_unit_file(split / f"{name}.jsonl") for channel in row_units(row)]
        return [deduplicate(channel)[0].tolist() for channel in channels]

    train, valid = sequences("train"), sequences("valid")
    num_units = sum(1 for line in _lines(split / "dict.txt") if line.strip())
    return [measure_ngram(KneserNey(train, order, num_units, without_repeats=True), valid) for order in (1, 2)]


def _prompts(out: Path, recordings: dict[str, dict[str, Any]]) -> Iterable[Prompt]:
    whole = {row["audio"]: row for row in read_unit_file(out / "split" / "valid.jsonl")}
    samples = read_unit_file(out / "samples.jsonl")
    for prompt in read_unit_file(out / "prompts.jsonl"):
        row, seconds = whole[prompt["audio"]], prompt["prompt_frames"] / FRAME_RATE
        own = [s for s in samples if s["audio"] == row["audio"] or s["audio"].rpartition("-s")[0] == row["audio"]]
        pieces = []
        for sample in own:
            wave, rate = read_audio(out / "samples" / f"{sample['audio']}.wav")
            array = wave.numpy()
            pieces.append(Piece(sample["audio"], array, rate, measure(array, rate), seconds, sample.get("seed")))
        yield Prompt(row["audio"], row["recording"], row["start"], _real(row, recordings, seconds), pieces)


def _real(row: dict[str, Any], recordings: dict[str, dict[str, Any]], prompt_seconds: float) -> Piece:
    """The recording that a held-out segment was cut from; its speech is judged by the noise of what is around it."""
    first = max(0.0, row["start"] - _AROUND)
    wave = _read_part(recordings[row["recording"]]["audio_filepath"], first, row["start"] + row["duration"] + _AROUND)
    start, end = row["start"] - first, row["start"] - first + row["duration"]
    activity = [shift_intervals(crop_intervals(a, start, end), -start) for a in measure(wave, _RATE)]
    return Piece(row["audio"], wave[:, round(start * _RATE) : round(end * _RATE)], _RATE, activity, prompt_seconds)


def _read_part(path: str, start: float, end: float) -> NDArray[np.float32]:
    """What lies between two times (seconds) of a recording, (C, N) at 16 kHz."""
    first, last, position, parts = round(start * _RATE), round(end * _RATE), 0, []
    for block in read_blocks(path, _RATE):
        wave = block.numpy()
        parts.append(wave[:, max(0, first - position) : max(0, last - position)])
        position += wave.shape[1]
        if position >= last:
            break
    return np.concatenate(parts, axis=1)
