"""Intervals of time: lists of (start, end) in seconds, in order and without overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]


def join_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """Sort, and merge those that overlap or touch; empty ones (end not after start) are dropped."""
    joined: list[Interval] = []
    for start, end in sorted(i for i in intervals if i[1] > i[0]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def bridge_silences(intervals: Sequence[Interval], min_silence: float) -> list[Interval]:
    """Join neighbours that are less than ``min_silence`` seconds apart.

    A silence of exactly ``min_silence`` stays: a microsecond absorbs rounding, as 0.7 - 0.5 is a little less than 0.2.
    """
    bridged: list[Interval] = []
    for start, end in intervals:
        if bridged and start - bridged[-1][1] < min_silence - 1e-6:
            bridged[-1] = (bridged[-1][0], max(bridged[-1][1], end))
        else:
            bridged.append((start, end))
    return bridged


def widen_intervals(intervals: Sequence[Interval], before: float, after: float, duration: float) -> list[Interval]:
    """Start ``before`` seconds earlier and end ``after`` seconds later, within 0 to ``duration``.

    At most to the middle of a silence. Times are rounded to milliseconds.
    """
    if not intervals or (before <= 0 and after <= 0):
        return list(intervals)
    middles = [(one[1] + other[0]) / 2 for one, other in zip(intervals, intervals[1:], strict=False)]
    bounds = zip([0.0, *middles], [*middles, max(duration, 0.0)], intervals, strict=True)
    return [
        (round(min(a, max(first, a - before)), 3), round(max(b, min(last, b + after)), 3))
        for first, last, (a, b) in bounds
    ]


def crop_intervals(intervals: Iterable[Interval], start: float, end: float) -> list[Interval]:
    """What lies between ``start`` and ``end``, on the original clock."""
    return [(max(a, start), min(b, end)) for a, b in intervals if b > start and a < end]


def shift_intervals(intervals: Iterable[Interval], by: float) -> list[Interval]:
    """The same intervals ``by`` seconds later."""
    return [(a + by, b + by) for a, b in intervals]


def total_seconds(intervals: Iterable[Interval]) -> float:
    """Sum of the lengths."""
    return sum(end - start for start, end in intervals)


def frames_to_intervals(frames: ArrayLike, frame_shift: float) -> list[Interval]:
    """Runs of true frames (T,) as intervals; a frame lasts ``frame_shift`` seconds."""
    padded = np.concatenate(([0], np.asarray(frames, np.int8).reshape(-1), [0]))
    edges = np.flatnonzero(np.diff(padded)).reshape(-1, 2)
    return [(start * frame_shift, end * frame_shift) for start, end in edges.tolist()]


def intervals_to_frames(intervals: Iterable[Interval], count: int, frame_shift: float) -> NDArray[np.bool_]:
    """Which of ``count`` frames of ``frame_shift`` seconds lie in the intervals, bounds rounded to frames: (count,)."""
    frames = np.zeros(count, bool)
    for start, end in intervals:
        frames[max(0, round(start / frame_shift)) : max(0, round(end / frame_shift))] = True
    return frames
