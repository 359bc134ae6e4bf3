"""Whether two recordings have speech and silence at the same times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.activity import FRAME_SHIFT
from speechdlm_ext.metrics.intervals import Interval


def speech_frames(intervals: Sequence[Interval], duration: float) -> NDArray[np.bool_]:
    """Whether there is speech in each 10 ms of ``duration`` seconds: (frames,), from stretches of speech in seconds."""
    frames = np.zeros(round(duration / FRAME_SHIFT), dtype=bool)
    for start, end in intervals:
        frames[round(start / FRAME_SHIFT) : round(end / FRAME_SHIFT)] = True
    return frames


def speech_agreement(one: Sequence[Interval], other: Sequence[Interval], duration: float) -> float:
    """The share of frames of 10 ms that are speech in both or silence in both, 0 to 1; 1 where there are none."""
    agree = speech_frames(one, duration) == speech_frames(other, duration)
    return float(agree.mean()) if len(agree) else 1.0
