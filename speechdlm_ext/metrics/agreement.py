"""Whether two recordings have speech and silence at the same times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.intervals import Interval, intervals_to_frames

FRAME_SHIFT = 0.01  # seconds


@dataclass(frozen=True)
class Agreement:
    """Speech of one channel of a recording and of its resynthesis, as a detector finds it.

    Attributes:
        share: of frames of 10 ms that are speech in both or silence in both, 0 to 1.
        chance: the same for the better of two constant answers, "all speech" and "all silence".
        speech: the share of speech in the recording.
        made_speech: the share of speech in the resynthesis.
    """

    share: float
    chance: float
    speech: float
    made_speech: float


def speech_frames(intervals: Sequence[Interval], duration: float) -> NDArray[np.bool_]:
    """Whether there is speech in each 10 ms of ``duration`` seconds: (frames,), from intervals of speech in seconds."""
    return intervals_to_frames(intervals, round(duration / FRAME_SHIFT), FRAME_SHIFT)


def speech_agreement(one: Sequence[Interval], other: Sequence[Interval], duration: float) -> float:
    """The share of frames of 10 ms that are speech in both or silence in both, 0 to 1; 1 where there are none."""
    agree = speech_frames(one, duration) == speech_frames(other, duration)
    return float(agree.mean()) if len(agree) else 1.0


def compare_sounds(
    source: NDArray[np.float32],
    made: NDArray[np.float32],
    sample_rate: int,
    listen: Callable[[NDArray[np.float32], int], list[list[Interval]]],
) -> list[Agreement]:
    """How well speech and silence of each channel are where they were.

    Args:
        source: the recording (C, N), full scale at ±1.
        made: its resynthesis (C, M).
        sample_rate: of both, in Hz.
        listen: gives the speech of each channel of a wave (C, N) at a rate in Hz.

    Returns:
        One :class:`Agreement` for each channel.

    Raises:
        InputError: another number of channels, or lengths more than a frame of 20 ms apart.
    """
    if len(source) != len(made) or abs(source.shape[1] - made.shape[1]) > 0.02 * sample_rate:
        raise InputError(
            f"{made.shape[0]} channels of {made.shape[1] / sample_rate:.3f} s were made of {source.shape[0]} of "
            f"{source.shape[1] / sample_rate:.3f} s: expected as many, and equal lengths to a frame of 20 ms"
        )
    duration = source.shape[1] / sample_rate
    results = []
    for one, other in zip(listen(source, sample_rate), listen(made, sample_rate), strict=True):
        speech, made_speech = (
            float(frames.mean()) if len(frames := speech_frames(found, duration)) else 0.0 for found in (one, other)
        )
        share = speech_agreement(one, other, duration)
        results.append(Agreement(share, max(speech, 1 - speech), speech, made_speech))
    return results


def agreement_table(groups: Mapping[str, Sequence[Agreement]]) -> str:
    """A table in Markdown: a line for each group of channels, and one for all; all channels count the same."""
    everything = [one for group in groups.values() for one in group]
    lines = ["| recordings | channels | mean | lowest | below 90 % | chance |", "|---|---|---|---|---|---|"]
    for name, group in [*sorted(groups.items()), ("all", everything)]:
        shares = np.array([one.share for one in group])
        chance = float(np.mean([one.chance for one in group]))
        cells = [name, str(len(group)), f"{shares.mean():.1%}", f"{shares.min():.1%}", str(int((shares < 0.9).sum()))]
        lines.append("| " + " | ".join([*cells, f"{chance:.1%}"]) + " |")
    return "\n".join(lines)
