"""Long speech cut where it is quietest, so that the cost of recognition grows linearly with its length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.intervals import Interval, crop_intervals
from speechdlm_ext.metrics.signal import short_time_power

_FRAME = 0.01  # seconds between two possible cuts
_QUIET = 0.2  # seconds around a cut whose power is compared


def cut_at_silences(
    wave: NDArray[np.float32], sample_rate: int, chunk_seconds: float, speech: Sequence[Interval] | None = None
) -> list[tuple[int, int]]:
    """Chunks of a wave of at most ``chunk_seconds``, each ended in its second half.

    That is in the middle of the longest silence there, as a detector has it; without one, in the quietest 200 ms.

    Args:
        wave: samples (N,).
        sample_rate: Hz.
        chunk_seconds: 1 or more.
        speech: what a detector found, (start, end) in seconds.

    Returns:
        (first sample, one past the last) of each chunk; together they are the whole wave.
    """
    longest, total = round(chunk_seconds * sample_rate), len(wave)
    bounds = [0]
    while total - bounds[-1] > longest:
        first = bounds[-1] + longest // 2
        last = min(bounds[-1] + longest, total - longest // 4)  # no short rest
        silent = _longest_silence(speech, first / sample_rate, last / sample_rate) if speech is not None else None
        quiet = first + _quietest(wave[first:last], sample_rate) if silent is None else round(silent * sample_rate)
        bounds.append(quiet)
    return list(zip(bounds, [*bounds[1:], total], strict=True))


def _longest_silence(speech: Sequence[Interval], start: float, end: float) -> float | None:
    """The middle of the longest silence between two times, in seconds; None where all is speech."""
    inside = crop_intervals(speech, start, end)
    edges = [start, *(edge for interval in inside for edge in interval), end]
    silences = [(b - a, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > _FRAME]
    if not silences:
        return None
    _, a, b = max(silences, key=lambda silence: (silence[0], -silence[1]))
    return (a + b) / 2


def _quietest(wave: NDArray[np.float32], sample_rate: int) -> int:
    """Sample in the middle of the quietest 200 ms."""
    powers = short_time_power(wave, sample_rate, _FRAME)
    width = min(len(powers), round(_QUIET / _FRAME))
    around = np.convolve(powers, np.ones(width), "valid")
    return round((int(np.argmin(around)) + width // 2) * _FRAME * sample_rate)
