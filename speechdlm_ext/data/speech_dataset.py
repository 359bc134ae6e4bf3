"""Speech with its text, its label or labels of its frames: manifests, and batches of them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.asr.text_tokenizer import TextTokenizer
from speechdlm_ext.data.token_dataset import SizedDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_audio, resample
from speechdlm_ext.io.manifest import iter_jsonl
from speechdlm_ext.modules.conv_speech import FRAMES, LABEL, TEXT

logger = logging.getLogger(__name__)
FRAMES_PER_SECOND = 100  # in which batches are counted
_BUCKET = 1.1  # lengths within this factor are batched in random order
_ROUNDING = 0.1  # seconds by which a recording may be shorter than its manifest says
_FIELDS = {TEXT: ("text",), LABEL: ("label", "command"), FRAMES: ("label",)}


@dataclass(frozen=True)
class Utterance:
    """A recording, or a part of one.

    Attributes:
        where: file and line that name it, for messages.
        path: audio file.
        start, duration: seconds.
        channel: from 0; None for the only one.
        target: text, label or labels of frames; None where there is none.
    """

    where: str
    path: str
    start: float
    duration: float
    channel: int | None
    target: str | None


def find_split(folder: str, split: str) -> Path:
    """``<split>.jsonl``, ``.json`` or ``.tsv`` in a folder; raises :class:`InputError` where none is."""
    for suffix in (".jsonl", ".json", ".tsv"):
        path = Path(folder, split + suffix)
        if path.is_file():
            return path
    raise InputError(f"{folder}: no {split}.jsonl, {split}.json or {split}.tsv in it")


def read_utterances(path: Path, target: str, channel: int | None = None) -> list[Utterance]:
    """Read a manifest of JSON lines (``audio_filepath``, ``duration``, ``text``, ``offset``, ``channel``), or fairseq's
    ``.tsv`` with the ``.ltr`` beside it.

    Args:
        path: the manifest; audio paths are relative to it where they do not exist as they are.
        target: ``text``, ``label`` or ``frame_labels``.
        channel: of files with several, where a line does not say.

    Raises:
        InputError: a line lacks a field or has it of another kind, or names a file that is not there.
    """
    rows = list(_tsv(path) if path.suffix == ".tsv" else _jsonl(path, target, channel))
    if not rows:
        raise InputError(f"{path}: no utterances in it")
    return rows


def _jsonl(path: Path, target: str, channel: int | None) -> Iterator[Utterance]:
    for line in iter_jsonl(path):
        row, where = line.row, f"{path}, line {line.number}"
        if row.get("_skipme"):
            continue
        audio = row.get("audio_filepath", row.get("audio_filename"))
        if not isinstance(audio, str):
            raise InputError(f"{where}: no audio_filepath")
        file = audio if os.path.exists(audio) else os.path.join(path.parent, audio)
        start, duration = row.get("offset") or 0.0, row.get("duration")
        if duration is None:
            duration = audio_info(file).duration - start
        for name, value in (("offset", start), ("duration", duration)):
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InputError(f"{where}: {name} is {value!r}, seconds are expected")
        value = next((row[name] for name in _FIELDS[target] if name in row), None)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {_FIELDS[target][0]} is {value!r}, text is expected")
        number = row.get("channel", channel)
        if number is not None and (not isinstance(number, int) or number < 0):
            raise InputError(f"{where}: channel is {number!r}, a number from 0 up is expected")
        yield Utterance(where, file, float(start), float(duration), number, value)


def _tsv(path: Path) -> Iterator[Utterance]:
    letters = path.with_suffix(".ltr")
    texts = letters.read_text(encoding="utf-8").splitlines() if letters.is_file() else None
    root, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if texts is not None and len(texts) != len(lines):
        raise InputError(
            f"{letters} has {len(texts)} lines, {path} {len(lines)} recordings: they do not belong together"
        )
    for number, line in enumerate(lines):
        name, _, samples = line.partition("\t")
        where = f"{path}, line {number + 2}"
        if not samples.strip().isdecimal():
            raise InputError(f"{where}: expected a path, a tab and a number of samples")
        file = os.path.join(root, name)
        text = None if texts is None else "".join(texts[number].split()).replace("|", " ").strip()
        yield Utterance(where, file, 0.0, int(samples) / audio_info(file).sample_rate, None, text)


def within(rows: Iterable[Utterance], shortest: float, longest: float, what: str) -> list[Utterance]:
    """The utterances of ``shortest`` to ``longest`` seconds; how many were skipped is logged.

    Raises:
        InputError: none is left.
    """
    rows = list(rows)
    kept = [row for row in rows if shortest <= row.duration <= longest]
    if not kept:
        raise InputError(f"{what}: none of {len(rows)} utterances lasts {shortest:g} to {longest:g} s")
    if len(kept) < len(rows):
        logger.warning("%s: %d of %d utterances skipped, not of %g to %g s", what, len(rows) - len(kept), len(rows),
                       shortest, longest)  # fmt: skip
    return kept


def encode_texts(
    rows: Sequence[Utterance], tokenizer: TextTokenizer, drop_unknown: bool, needed: bool
) -> list[np.ndarray | None]:
    """The symbols of the texts as numbers.

    Args:
        drop_unknown: leave out what is outside the vocabulary; otherwise it is an error.
        needed: whether every utterance must have a text.

    Raises:
        InputError: a text is missing, or has characters outside the vocabulary, which are counted and named.
    """
    number = {symbol: place for place, symbol in enumerate(tokenizer.symbols)}
    found: list[np.ndarray | None] = []
    unknown: Counter[str] = Counter()
    first, empty = "", 0
    for row in rows:
        if row.target is None:
            if needed:
                raise InputError(f'{row.where}: no "text"')
            found.append(None)
            continue
        strange = tokenizer.unknown(row.target)
        first = first or (row.where if strange else "")
        unknown += strange
        symbols = tokenizer.split(row.target)
        kept = [number[symbol] for symbol in symbols if symbol in number and (symbol != "<unk>" or not drop_unknown)]
        empty += not kept
        found.append(np.array(kept, np.int64))
    if unknown:
        named = ", ".join(f"{symbol!r} {count}" for symbol, count in unknown.most_common(10))
        told = f"{unknown.total()} characters outside the vocabulary, first in {first}: {named}"
        if not drop_unknown:
            raise InputError(f"{told}; pass --unknown-characters drop, or normalise the texts")
        logger.warning("%s: skipped", told)
    if empty:
        logger.warning("%d texts are empty: for CTC, recordings without speech", empty)
    return found


def encode_labels(rows: Sequence[Utterance], labels: Sequence[str], frames: bool) -> list[np.ndarray | None]:
    """The labels as numbers: one, or of the frames one each, separated by spaces.

    Raises:
        InputError: a label is missing, or is not among those of the model.
    """
    number = {label: place for place, label in enumerate(labels)}
    found: list[np.ndarray | None] = []
    for row in rows:
        words = (row.target or "").split() if frames else [row.target]
        if not words or row.target is None:
            raise InputError(f'{row.where}: no "label"')
        strange = next((word for word in words if word not in number), None)
        if strange is not None:
            raise InputError(f"{row.where}: label {strange!r}; the model knows {', '.join(labels)}")
        found.append(np.array([number[str(word)] for word in words], np.int64))
    return found


def needed_frames(target: np.ndarray) -> int:
    """Frames that CTC needs for a text: one a symbol, and a blank between equal neighbours."""
    return len(target) + int((target[1:] == target[:-1]).sum())


class SpeechDataset(SizedDataset):
    """Sound with its targets; batches are padded with zeros. ``--max-tokens`` counts frames of 10 ms, 6000 a minute.

    Args:
        rows: the utterances.
        targets: their symbols or labels (L,); None where there is none.
        padding: of targets.
        sample_rate: of the sound, in Hz; files of other rates are resampled.
        speeds: factors of which one is drawn for each utterance in each epoch.
        shuffle: mix the utterances of about equal length (training).
        seed: of the drawing.
    """

    can_reuse_epoch_itr_across_epochs = False  # each epoch has its own batches and speeds

    def __init__(
        self,
        rows: Sequence[Utterance],
        targets: Sequence[np.ndarray | None],
        padding: int,
        sample_rate: int = 16000,
        speeds: Sequence[float] = (1.0,),
        shuffle: bool = False,
        seed: int = 1,
    ) -> None:
        self.rows, self.targets, self.padding = list(rows), list(targets), padding
        self.sample_rate, self.speeds, self.shuffle, self.seed = sample_rate, speeds, shuffle, seed
        slowest = min(speeds)
        lengths = [row.duration / slowest * FRAMES_PER_SECOND for row in self.rows]
        self.sizes = np.maximum(1, np.ceil(lengths)).astype(np.int64)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        speed = self.speeds[0]
        if len(self.speeds) > 1:
            speed = float(np.random.default_rng((self.seed, self.epoch, index)).choice(self.speeds))
        wave = read_utterance(row, self.sample_rate)
        if speed != 1:
            wave = resample(wave, round(self.sample_rate * speed), self.sample_rate)
        return {"id": index, "wave": wave, "target": self.targets[index]}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: ``wave`` (B, N) and ``lengths`` (B,) in samples; ``target`` (B, L) and ``target_lengths``."""
        if not samples:
            return {}
        lengths = [len(sample["wave"]) for sample in samples]
        wave = torch.nn.utils.rnn.pad_sequence([sample["wave"] for sample in samples], batch_first=True)
        batch: dict[str, Any] = {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": sum(lengths) * FRAMES_PER_SECOND // self.sample_rate,
            "samples": lengths,  # numbers that need no waiting for a device
            "net_input": {"wave": wave, "lengths": torch.tensor(lengths)},
            "target": None,
        }
        if all(sample["target"] is not None for sample in samples):
            targets = [torch.from_numpy(sample["target"]) for sample in samples]
            batch["target"] = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=self.padding)
            batch["target_lengths"] = [len(target) for target in targets]
        return batch

    def ordered_indices(self) -> np.ndarray:
        """By length; in training in random order (of numpy's generator, which fairseq seeds) within a length bucket."""
        if not self.shuffle:
            return np.argsort(self.sizes, kind="stable")
        order = np.random.permutation(len(self))
        buckets = np.floor(np.log(self.sizes[order]) / np.log(_BUCKET))
        return order[np.argsort(buckets, kind="stable")]


def read_utterance(row: Utterance, sample_rate: int) -> Tensor:
    """Samples (N,) of an utterance.

    Raises:
        InputError: the file cannot be read, ends before the utterance does, or has several channels and none is named.
    """
    stop = row.start + row.duration if row.duration < float("inf") else None
    wave, _ = read_audio(row.path, sample_rate, start=row.start, stop=stop)
    found = wave.shape[1] / sample_rate
    if stop is not None and found < row.duration - _ROUNDING:
        raise InputError(
            f"{row.where}: {found:.2f} of {row.duration:.2f} s are in {row.path}: it is cut off, or the manifest is of "
            "another file"
        )
    if row.channel is None and len(wave) > 1:
        raise InputError(f'{row.where}: {row.path} has {len(wave)} channels; add "channel", or pass --channel')
    if (row.channel or 0) >= len(wave):
        raise InputError(f"{row.where}: channel {row.channel}, {row.path} has {len(wave)}")
    return wave[row.channel or 0]
