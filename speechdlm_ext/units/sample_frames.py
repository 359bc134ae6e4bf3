"""A random share of the frames of each recording as features, the same whatever else is drawn."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.encoders.level import LOWEST_LEVEL, LevelMeter
from speechdlm_ext.errors import InputError, ShortOfMemory, one_line
from speechdlm_ext.io.read_ahead import read_ahead
from speechdlm_ext.io.recordings import recording_size


@dataclass(frozen=True)
class Drawn:
    """The frames that were drawn from one recording.

    Attributes:
        row: of the manifest.
        features: (n, D), of all channels.
        levels: active level of each channel that has sound, in dB re full scale.
        seconds: length of the sound.
        error: why there are none, in one line.
    """

    row: Mapping[str, Any]
    features: torch.Tensor
    levels: list[float]
    seconds: float = 0.0
    error: str | None = None


def sampling_share(rows: Sequence[Mapping[str, Any]], encoder: Encoder, max_frames: int) -> float:
    """The share of the frames of each recording that comes to about ``max_frames`` in all; 1 at most."""
    return min(1.0, max_frames / max(count_frames(rows, encoder), 1))


def count_frames(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> int:
    """About how many frames all channels of the recordings have, by what the manifest says."""
    total = 0
    for row in rows:
        try:
            seconds, channels = recording_size(row)
        except (InputError, OSError):
            continue  # it will be left out
        total += encoder.frames(round(seconds * encoder.sample_rate)) * channels
    return total


def draw_features(
    rows: Sequence[tuple[int, Mapping[str, Any]]], encoder: Encoder, share: float, seed: int, workers: int = 2
) -> Generator[Drawn, None, None]:
    """Features of a random share of the frames of each recording, the same whatever else is drawn.

    Args:
        rows: of a manifest, each with its place in it.
        encoder: what makes the features.
        share: of the frames.
        seed: of the choice, with the recording's place.
        workers: threads that read ahead.
    """

    with closing(read_ahead([row for _, row in rows], encoder.sample_rate, workers)) as readings:
        for (place, row), reading in zip(rows, readings, strict=True):
            meter = LevelMeter()
            draw = np.random.default_rng((seed, place))
            try:
                chosen = _choose(encoder, meter.watch(reading), share, draw)
            except ShortOfMemory:
                raise
            except (InputError, OSError) as error:
                yield Drawn(row, torch.zeros(0, encoder.dim), [], error=one_line(error))
                continue
            levels = [level for level in meter.levels() if level > LOWEST_LEVEL]
            yield Drawn(row, chosen, levels, reading.samples / encoder.sample_rate)


def _choose(encoder: Encoder, blocks: Iterable[torch.Tensor], share: float, draw: np.random.Generator) -> torch.Tensor:
    chosen = [torch.zeros(0, encoder.dim)]
    for piece in encoder.stream(blocks):  # not all features of a long recording at once
        features = piece.flatten(0, 1)
        chosen.append(features[torch.from_numpy(draw.random(len(features)) < share)])
    return torch.cat(chosen)
