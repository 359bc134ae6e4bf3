"""From probabilities of speech to intervals as NeMo does it: overlapping windows smoothed, hysteresis, filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.metrics.intervals import Interval, bridge_silences, join_intervals

SMOOTHINGS: dict[str, Callable[[NDArray[np.float64]], np.floating[Any]]] = {"mean": np.mean, "median": np.median}


def smooth_overlaps(probabilities: ArrayLike, window: int, overlap: float, method: str = "mean") -> NDArray[np.float64]:
    """What windows that overlap say of each frame.

    Args:
        probabilities: of windows that begin with each frame (T,).
        window: frames of a window.
        overlap: of the windows that are used, as a share of ``window``, from 0 up to 1.
        method: ``mean`` or ``median`` of the windows that a frame lies in.

    Returns:
        (T,).
    """
    values = np.asarray(probabilities, np.float64)
    step = max(1, int(window * (1 - overlap)))
    used, combine = values[::step], SMOOTHINGS[method]
    return np.array([combine(used[max(0, -(-(t - window + 1) // step)) : t // step + 1]) for t in range(len(values))])


def binarize(
    probabilities: ArrayLike,
    frame_shift: float,
    onset: float = 0.5,
    offset: float = 0.5,
    pad_onset: float = 0.0,
    pad_offset: float = 0.0,
    last_frame: bool = True,
) -> list[Interval]:
    """Speech from where the probability rises above ``onset`` to where it falls below ``offset``.

    Args:
        probabilities: one for each frame (T,).
        frame_shift: seconds.
        onset, offset: probabilities.
        pad_onset, pad_offset: seconds that speech begins earlier and ends later; what then touches is joined.
        last_frame: whether it belongs to speech that lasts to the end; in NeMo it does not.

    Returns:
        (start, end) in seconds.
    """
    values = np.asarray(probabilities, np.float64).tolist()
    found: list[Interval] = []
    start: int | None = None
    for place, value in enumerate([*values, -np.inf]):
        if start is None and value > onset:
            start = place
        elif start is not None and value < offset:
            end = min(place, len(values) - (not last_frame))
            found.append((max(0.0, start * frame_shift - pad_onset), end * frame_shift + pad_offset))
            start = None
    return join_intervals(found)


def filter_intervals(
    speech: Sequence[Interval], min_speech: float = 0.0, min_silence: float = 0.0, speech_first: bool = True
) -> list[Interval]:
    """Speech of at least ``min_speech`` seconds, then silences below ``min_silence`` bridged; or bridged first."""

    def long(intervals: Sequence[Interval]) -> list[Interval]:
        return [(a, b) for a, b in intervals if b - a >= min_speech - 1e-6]

    return bridge_silences(long(speech), min_silence) if speech_first else long(bridge_silences(speech, min_silence))
