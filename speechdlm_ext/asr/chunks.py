"""Long speech cut where it is quietest, so that what a recogniser costs grows with its length and no faster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FRAME = 0.01  # seconds between two places where a cut can be
_QUIET = 0.2  # seconds around a cut whose level is compared


def cut_at_silences(wave: NDArray[np.float32], sample_rate: int, longest: float) -> list[tuple[int, int]]:
    """Pieces of a wave that are at most ``longest`` seconds long, each ended in the quietest 200 ms of its second half.

    Args:
        wave: samples (N,).
        sample_rate: Hz.
        longest: seconds, 1 or more.

    Returns:
        (first sample, one past the last) of each piece; together they are the whole wave.
    """
    most, total = round(longest * sample_rate), len(wave)
    bounds = [0]
    while total - bounds[-1] > most:
        first = bounds[-1] + most // 2
        last = min(bounds[-1] + most, total - most // 4)  # no crumb is left over
        bounds.append(first + _quietest(wave[first:last], sample_rate))
    return list(zip(bounds, [*bounds[1:], total], strict=True))


def _quietest(wave: NDArray[np.float32], sample_rate: int) -> int:
    """Sample in the middle of the quietest stretch."""
    step = max(1, round(_FRAME * sample_rate))
    count = len(wave) // step
    powers = (wave[: count * step].astype(np.float64).reshape(count, step) ** 2).sum(axis=1)
    width = min(count, round(_QUIET / _FRAME))
    around = np.convolve(powers, np.ones(width), "valid")
    return (int(np.argmin(around)) + width // 2) * step
