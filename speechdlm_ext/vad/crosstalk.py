"""What is heard on a channel but was spoken into another one: crosstalk and echo in recordings of several channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.vad.levels import ChannelLevels

_LOUD = 15.0  # dB under the other channel's loud speech, down to which it is compared
_OVER_NOISE = 6.0  # dB
_LARGEST_GAIN = -10.0  # dB: what is nearer than that may be the same sound on two channels
_LATEST = 30  # frames by which an echo comes late
_SPREAD = 5.0  # dB by which a leak differs from the other channel at most, its gain apart
_FEWEST = 50  # frames in which it would be heard,
_LISTENING = 0.25  # share of them in which nothing else is, at least,
_LESS = 0.5  # for each of these, frames in which less than the leak is, at most
# dB over a leak that are not yet one's own speech, where it follows the other channel closely, and where it does not.
_MARGINS = 2.0, 6.0
_ROOM = 20  # frames in which it dies away


class Leak(NamedTuple):
    """How another channel is heard on this one.

    Attributes:
        gain: dB of it, negative.
        delay: frames of 10 ms by which it comes later.
        margin: dB over ``gain`` that are not yet this channel's own speech.
    """

    gain: float
    delay: int
    margin: float


def leaking_frames(
    channel: ChannelLevels, others: Sequence[ChannelLevels], noise: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """In which frames no more is heard than what leaks in from another channel, and what a room may make of it.

    Args:
        channel: levels of the whole channel.
        others: of the recording's other channels, as long.
        noise: level of the channel's noise in dB re full scale.

    Returns:
        Frames that hold no own speech (T,), and those that do not prove that there is any (T,): in a room, what leaks
        in dies away slowly.
    """
    from scipy.ndimage import maximum_filter1d

    leaking, doubtful = np.zeros((2, len(channel.level)), bool)
    for other in others:
        leak = find_leak(channel.level, other.level, noise)
        if leak is not None:
            late = np.pad(other.level, (leak.delay, 0), mode="edge")[: len(leaking)] + leak.gain + leak.margin
            leaking |= channel.level < maximum_filter1d(late, 3)  # delays are not whole frames
            doubtful |= channel.level < maximum_filter1d(late, 2 * _ROOM + 1)
    return leaking, doubtful


def find_leak(level: NDArray[np.float64], other: NDArray[np.float64], noise: float) -> Leak | None:
    """How another channel is heard on this one; None if it is not, or cannot be known.

    Into which another channel leaks, that channel is never less loud than the leak, and as loud while its own speaker
    listens. Where nothing leaks in, it mostly has no more than its noise while the other speaks.

    Args:
        level: of each frame (T,) in dB re full scale.
        other: likewise of the other channel.
        noise: level of this channel's noise.
    """
    if len(level) <= _LATEST:
        return None
    loud = other > np.percentile(other, 99) - _LOUD
    heard = level > noise + _OVER_NOISE
    most, found = 0, None
    for delay in range(_LATEST + 1):
        late, loud_late = other[: len(other) - delay], loud[: len(other) - delay]
        over = level[delay:] - late
        gains = np.sort(over[loud_late & heard[delay:]])
        for gain in (_densest(gains), _densest(gains[gains <= _LARGEST_GAIN])):
            exposed = over[loud_late & (late + gain > noise + _OVER_NOISE)]  # frames in which it would be heard
            near = exposed[np.abs(exposed - gain) <= _SPREAD] - gain
            count = len(near)
            less = int((exposed < gain - _SPREAD).sum())
            enough = len(exposed) >= _FEWEST and count >= _LISTENING * len(exposed)
            if count > most and enough and less <= _LESS * count:
                margin = float(np.clip(2 * np.quantile(near, 0.9), *_MARGINS))
                most, found = count, Leak(gain, delay, margin)
    return found if found and found.gain <= _LARGEST_GAIN else None


def _densest(gains: NDArray[np.float64]) -> float:
    """The middle of where most of the gains (T,), in order, lie together; -inf where there are none."""
    if not len(gains):
        return -np.inf
    together = np.searchsorted(gains, gains + 2 * _SPREAD, "right") - np.arange(len(gains))
    first = int(together.argmax())
    return float(np.median(gains[first : first + together[first]]))
