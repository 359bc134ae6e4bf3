"""Recordings to units: read ahead, encoded, alone or in batches of like length, and quantized in the meantime."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.encoders.batches import FeaturePart, explain, feature_parts
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.read_ahead import ahead
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.quantizer import DPDPQuantizer


class Quantizer(Protocol):
    """Turns features into units."""

    def units_batch(self, features: Sequence[torch.Tensor], /) -> list[torch.Tensor]:
        """Units (T_i,), int64, one for each frame, of features (T_i, D)."""
        ...


@dataclass(frozen=True)
class Encoded:
    """What became of one recording.

    Attributes:
        row: of the manifest.
        units: of each channel (T,), int64; (number of runs,) when deduplicated. None where it could not be encoded.
        durations: frames of each run, of each channel, when deduplicated.
        error: why it could not be encoded, in one line.
        seconds: length of the sound as it was encoded.
        frames: of each channel.
    """

    row: Mapping[str, Any]
    units: list[torch.Tensor] | None = None
    durations: list[torch.Tensor] | None = None
    error: str | None = None
    seconds: float = 0.0
    frames: int = 0


def encode_rows(
    rows: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    quantizer: Quantizer | Codebook,
    *,
    deduplicate: bool = False,
    batch_seconds: float = 0.0,
    workers: int = 2,
) -> Generator[Encoded, None, None]:
    """The units of recordings, each as soon as it is done.

    Threads read and resample what comes next. On a CPU the encoder begins with a recording, or batch, when the units of
    the one before have been taken, so that whoever keeps them loses no more than the one in hand, whatever happens;
    quantizing beside the encoder would gain nothing, as both want all cores. On a GPU the encoder is at most one batch
    ahead of the one that is being quantized.

    Args:
        rows: of a manifest.
        encoder: what makes features, on its device.
        quantizer: features to units; a codebook takes the nearest centroid.
        deduplicate: give runs of units and their durations instead of one unit a frame.
        batch_seconds: channels of several recordings are encoded together up to this many seconds in all, padding
            included, which is less than 10 %. 0: each recording alone, block by block; its units then do not depend
            on what else is encoded, to the last bit.
        workers: threads that read.

    Yields:
        One :class:`Encoded` for each row; in the order of ``rows`` when each is alone, else longest first. A recording
        that cannot be read or encoded has an ``error``. Close the iterator when it is not used up.
    """
    parts = feature_parts(rows, encoder, batch_seconds, workers)
    with closing(parts if encoder.device.type == "cpu" else ahead(parts)) as batches:
        recording = _Recording(quantizer, deduplicate)
        for batch in batches:
            if len(batch) > 1:
                yield from _finish(batch, quantizer, deduplicate)
                continue
            recording.add(batch[0])
            if batch[0].last:
                yield recording.finish()
                recording = _Recording(quantizer, deduplicate)


def runs(units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Units (T,) without their repetitions, and the length of each run in frames; both (number of runs,), int64."""
    labels, lengths = torch.unique_consecutive(units, return_counts=True)
    return labels, lengths


class _Recording:
    """The units of one recording from its parts."""

    def __init__(self, quantizer: Quantizer | Codebook, deduplicate: bool) -> None:
        self._quantizer, self._deduplicate = quantizer, deduplicate
        self._channels: list[_Channel] = []
        self._last = FeaturePart({})

    def add(self, part: FeaturePart) -> None:
        """Take in what comes next."""
        part.error = part.error or self._last.error
        self._last = part
        if part.error is None and part.features:
            self._channels = self._channels or [_channel(self._quantizer) for _ in part.features]
            try:
                for channel, features in zip(self._channels, part.features, strict=True):
                    channel.add(features)
            except InputError as error:
                part.error = explain(part.row, one_line(error))

    def finish(self) -> Encoded:
        """What became of it."""
        units = [] if self._last.error else [channel.units() for channel in self._channels]
        return _encoded(self._last, units, self._deduplicate)


class _Channel(Protocol):
    """The units of one channel from its features (t, D), in parts."""

    def add(self, features: torch.Tensor) -> None: ...

    def units(self) -> torch.Tensor: ...


class _Nearest:
    """Frame by frame, so that no features are kept."""

    def __init__(self, codebook: Codebook) -> None:
        self._codebook = codebook
        self._found: list[torch.Tensor] = []

    def add(self, features: torch.Tensor) -> None:
        self._found.append(self._codebook.quantize(features))

    def units(self) -> torch.Tensor:
        return torch.cat(self._found)


class _Searched:
    """By the duration-penalized quantizer, whose search takes frames as they come and keeps no features."""

    def __init__(self, quantizer: DPDPQuantizer) -> None:
        self._quantizer = quantizer
        self._search = quantizer.search()

    def add(self, features: torch.Tensor) -> None:
        for table in self._quantizer.distances(features.device).tables([features]):
            self._search.add(table.cpu())

    def units(self) -> torch.Tensor:
        return self._search.units()


class _Whole:
    """All features at once, as units may depend on frames that come later."""

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self._features: list[torch.Tensor] = []

    def add(self, features: torch.Tensor) -> None:
        self._features.append(features)

    def units(self) -> torch.Tensor:
        return self._quantizer.units_batch([torch.cat(self._features)])[0]


def _channel(quantizer: Quantizer | Codebook) -> _Channel:
    if isinstance(quantizer, Codebook):
        return _Nearest(quantizer)
    return _Searched(quantizer) if isinstance(quantizer, DPDPQuantizer) else _Whole(quantizer)


def _finish(
    batch: list[FeaturePart], quantizer: Quantizer | Codebook, deduplicate: bool
) -> Generator[Encoded, None, None]:
    """The units of several recordings that were encoded together."""
    features = [channel for part in batch for channel in part.features]
    try:
        if isinstance(quantizer, Codebook):
            units = iter([quantizer.quantize(channel) for channel in features])
        else:
            units = iter(quantizer.units_batch(features))
    except InputError:  # each by itself, to find out whose fault it is
        for part in batch:
            recording = _Recording(quantizer, deduplicate)
            recording.add(part)
            yield recording.finish()
        return
    for part in batch:
        yield _encoded(part, [next(units) for _ in part.features], deduplicate)


def _encoded(part: FeaturePart, units: list[torch.Tensor], deduplicate: bool) -> Encoded:
    if part.error is not None:
        return Encoded(part.row, error=part.error)
    frames, durations = len(units[0]), None
    if deduplicate:
        units, durations = map(list, zip(*map(runs, units), strict=True))
    return Encoded(part.row, units, durations, None, part.seconds, frames)
