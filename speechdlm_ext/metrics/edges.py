"""Beginnings and ends of speech to 10 ms, by the level of the sound around where a network has found them.

A network that looks at windows of 32 ms, and that remembers, knows where there is speech, but not to within a few
hundredths of a second when it begins and ends. The level does, once it is known what is speech and what is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.activity import FRAME_SHIFT
from speechdlm_ext.metrics.intervals import Interval


@dataclass(frozen=True)
class EdgeOptions:
    """Where speech begins and ends: levels in dB, times in seconds.

    Speech is what lies above a share of the way from the noise to loud speech, ``above_noise`` over the noise or more,
    and ``below_loud`` under loud speech or less, within ``reach`` of where the network has it begin or end.
    """

    share: float = 0.17
    above_noise: float = 6.0
    below_loud: float = 34.0
    reach: float = 0.2
    least_range: float = 15.0  # of loud speech over noise; with less, the level does not say where speech ends
    start_shift: float = -0.01  # added to beginnings where the level says nothing
    end_shift: float = -0.06  # likewise to ends: the network lets go late


_MARGIN = 0.1  # seconds around speech that are neither speech nor noise
_FEWEST = 50  # frames of noise from which its level is known
_LOWEST = -70.0  # dB re full scale: nothing below this is speech


def refine_edges(
    stretches: Sequence[Interval], levels: NDArray[np.float64], options: EdgeOptions | None = None
) -> list[Interval]:
    """Move each beginning and end to where the level says.

    Args:
        stretches: (start, end) in seconds, in order and apart.
        levels: of the whole channel in dB, a frame every 10 ms, as :func:`.activity.frame_levels` gives them.
        options: thresholds.

    Returns:
        As many stretches or fewer, on a grid of 10 ms where the level decided; neighbours may touch, and do not
        overlap.
    """
    options = options or EdgeOptions()
    above = _frames_of_speech(stretches, levels, options)
    moved = []
    for number, (start, end) in enumerate(stretches):
        # Half of the silence on either side is the neighbour's.
        first = max((stretches[number - 1][1] + start) / 2 if number else 0.0, start - options.reach)
        after = (stretches[number + 1][0] + end) / 2 if number + 1 < len(stretches) else np.inf
        begin = _first(above, first, min(start + options.reach, end))
        stop = _last(above, max(end - options.reach, start), min(after, end + options.reach))
        begin = max(first, start + options.start_shift) if begin is None else begin
        stop = end + options.end_shift if stop is None else stop
        if stop > begin:
            moved.append((begin, stop))
    return moved


def _frames_of_speech(
    stretches: Sequence[Interval], levels: NDArray[np.float64], options: EdgeOptions
) -> NDArray[np.int64]:
    """Numbers of the frames that are loud enough; none where noise and speech cannot be told apart."""
    inside = np.zeros(len(levels), bool)
    for start, end in stretches:
        inside[max(0, round((start - _MARGIN) / FRAME_SHIFT)) : max(0, round((end + _MARGIN) / FRAME_SHIFT))] = True
    if inside.sum() < 1 or (~inside).sum() < _FEWEST:
        return np.zeros(0, np.int64)
    noise, loud = float(np.median(levels[~inside])), float(np.percentile(levels[inside], 99))
    if loud - noise < options.least_range:
        return np.zeros(0, np.int64)
    over = noise + max(options.above_noise, options.share * (loud - noise))
    return np.flatnonzero(levels > max(over, loud - options.below_loud, _LOWEST))


def _first(frames: NDArray[np.int64], start: float, end: float) -> float | None:
    """When the first of ``frames`` within (start, end) begins, in seconds."""
    place = int(np.searchsorted(frames, round(start / FRAME_SHIFT)))
    if place < len(frames) and frames[place] < round(end / FRAME_SHIFT):
        return float(frames[place]) * FRAME_SHIFT
    return None


def _last(frames: NDArray[np.int64], start: float, end: float) -> float | None:
    """When the last of ``frames`` within (start, end) ends, in seconds."""
    place = (len(frames) if end == np.inf else int(np.searchsorted(frames, round(end / FRAME_SHIFT)))) - 1
    if place >= 0 and frames[place] >= round(start / FRAME_SHIFT):
        return float(frames[place] + 1) * FRAME_SHIFT
    return None
