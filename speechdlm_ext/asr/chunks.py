"""Long speech cut where it is quietest, so that the cost of recognition grows linearly with its length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.signal import short_time_power

_FRAME = 0.01  # seconds between two possible cuts
_QUIET = 0.2  # seconds around a cut whose power is compared


def cut_at_silences(wave: NDArray[np.float32], sample_rate: int, chunk_seconds: float) -> list[tuple[int, int]]:
    """Chunks of a wave of at most ``chunk_seconds``, each ended in the quietest 200 ms of its second half.

    Args:
        wave: samples (N,).
        sample_rate: Hz.
        chunk_seconds: 1 or more.

    Returns:
        (first sample, one past the last) of each chunk; together they are the whole wave.
    """
    longest, total = round(chunk_seconds * sample_rate), len(wave)
    bounds = [0]
    while total - bounds[-1] > longest:
        first = bounds[-1] + longest // 2
        last = min(bounds[-1] + longest, total - longest // 4)  # no short rest
        bounds.append(first + _quietest(wave[first:last], sample_rate))
    return list(zip(bounds, [*bounds[1:], total], strict=True))


def _quietest(wave: NDArray[np.float32], sample_rate: int) -> int:
    """Sample in the middle of the quietest 200 ms."""
    powers = short_time_power(wave, sample_rate, _FRAME)
    width = min(len(powers), round(_QUIET / _FRAME))
    around = np.convolve(powers, np.ones(width), "valid")
    return round((int(np.argmin(around)) + width // 2) * _FRAME * sample_rate)
