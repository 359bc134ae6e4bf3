"""Features of the recordings of a manifest: of one alone, block by block, or of several of like length together."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.encoders.chunking import by_halves, group_by_length
from speechdlm_ext.encoders.logmel import LevelMeter
from speechdlm_ext.errors import InputError, ShortOfMemory, memory_for, one_line
from speechdlm_ext.io.read_ahead import Reading, read_ahead
from speechdlm_ext.io.recordings import audio_paths, recording_size

_SORTED = 10_000  # rows sorted by length at a time


@dataclass
class FeaturePart:
    """Features (t, D) of each channel of a recording, or of its next frames; the error of one that has none.

    Attributes:
        row: of the manifest.
        features: of each channel.
        seconds: of the sound up to its end.
        last: whether this is all of the recording.
        error: why there are no features.
        levels: active level of each channel in dB re full scale, where they were asked for, of all of the recording.
    """

    row: Mapping[str, Any]
    features: list[torch.Tensor] = field(default_factory=list)
    seconds: float = 0.0
    last: bool = True
    error: str | None = None
    levels: list[float] = field(default_factory=list)


def feature_parts(
    rows: Iterable[Mapping[str, Any]], encoder: Encoder, batch_seconds: float, workers: int, levels: bool = False
) -> Generator[list[FeaturePart], None, None]:
    """The features of all recordings: one after another the parts of one that is alone, or several whole ones.

    Args:
        rows, encoder, batch_seconds, workers, levels: as for :func:`speechdlm_ext.units.encoding.encode_rows`.

    Raises:
        ShortOfMemory: there is not enough for one recording; what is wrong with a recording is its part's ``error``.
    """
    counts: deque[int] = deque()  # rows in each group that is read ahead

    def in_order() -> Iterator[Mapping[str, Any]]:
        for group in _groups(rows, batch_seconds):
            counts.append(len(group))
            yield from group

    with closing(read_ahead(in_order(), encoder.sample_rate, workers)) as readings:
        most = batch_seconds
        for reading in readings:
            count = counts.popleft()
            if count == 1:
                yield from ([part] for part in _stream(reading, encoder, levels))
            else:
                group = chain([reading], islice(readings, count - 1))
                most = yield from _batches([_whole(one, encoder, levels) for one in group], encoder, most)


def _groups(rows: Iterable[Mapping[str, Any]], batch_seconds: float) -> Iterator[list[Mapping[str, Any]]]:
    """Rows that are encoded together, of like length, the longest first within each 10,000."""
    if batch_seconds <= 0:
        yield from ([row] for row in rows)
        return
    rest = iter(rows)
    while some := list(islice(rest, _SORTED)):
        for places in group_by_length([_size(row) for row in some], batch_seconds):
            yield [some[place] for place in places]


def _size(row: Mapping[str, Any]) -> tuple[float, int]:
    """Length at the row's speed, and channels; of a file that cannot be read, nothing."""
    try:
        seconds, channels = recording_size(row)
    except (InputError, OSError):
        return 0.0, 1
    return seconds / float(row.get("speed", 1)), channels


def _stream(reading: Reading, encoder: Encoder, levels: bool) -> Iterator[FeaturePart]:
    """A recording alone, part by part."""
    meter = LevelMeter(encoder.sample_rate // 50)
    try:
        for features in encoder.stream(meter.watch(reading) if levels else reading):
            yield FeaturePart(reading.row, list(features), last=False)
    except ShortOfMemory:
        raise
    except (InputError, OSError) as error:
        yield FeaturePart(reading.row, error=explain(reading.row, one_line(error)))
    else:
        seconds = reading.samples / encoder.sample_rate
        too_short = None if encoder.frames(reading.samples) else explain(reading.row, _too_short(encoder))
        yield FeaturePart(reading.row, [], seconds, error=too_short, levels=meter.levels())


def _too_short(encoder: Encoder) -> str:
    return f"sound shorter than one frame of {1000 / encoder.frame_rate:.0f} ms"


def explain(row: Mapping[str, Any], message: str) -> str:
    """The message with the name of the recording, if it does not say it."""
    paths = audio_paths(row)
    return message if any(path in message for path in paths) else f"{paths[0]}: {message}"


def _whole(reading: Reading, encoder: Encoder, levels: bool) -> tuple[FeaturePart, torch.Tensor]:
    """The sound (C, N) of a recording, and its entry, still without features."""
    meter = LevelMeter(encoder.sample_rate // 50)
    try:
        wave = torch.cat(list(meter.watch(reading) if levels else reading), dim=1)
        if encoder.frames(wave.shape[1]) < 1:
            raise InputError(_too_short(encoder))
    except (InputError, OSError) as error:
        return FeaturePart(reading.row, error=explain(reading.row, one_line(error))), torch.zeros(0)
    return FeaturePart(reading.row, [], wave.shape[1] / encoder.sample_rate, levels=meter.levels()), wave


def _batches(
    items: list[tuple[FeaturePart, torch.Tensor]], encoder: Encoder, most: float
) -> Generator[list[FeaturePart], None, float]:
    """Recordings with their features, batched by their true lengths, in case the manifest says others.

    Returns:
        How many seconds to compute at once from now on: less than before where memory ran out.
    """

    def encode(batch: Sequence[tuple[FeaturePart, torch.Tensor]]) -> list[FeaturePart]:
        waves = [channel for _, wave in batch for channel in wave]
        seconds = max(part.seconds for part, _ in batch) * len(waves)
        what = f"{seconds:.0f} s of sound at once on {encoder.device}"
        with memory_for(what, "take a smaller --batch-seconds"):
            features = iter(encoder.encode_batch(waves, seconds))
        for part, wave in batch:
            part.features = [next(features) for _ in wave]
        return [part for part, _ in batch]

    yield from ([part] for part, _ in items if part.error is not None)
    good = [item for item in items if item[0].error is None]
    for places in group_by_length([(part.seconds, len(wave)) for part, wave in good], most):
        done = by_halves([good[place] for place in places], encode)
        if len(done) > 1:
            most = max(part.seconds for part in done[0]) * sum(len(part.features) for part in done[-1])
        yield from done
    return most
