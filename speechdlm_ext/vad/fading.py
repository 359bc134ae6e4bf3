"""What noise hides of the beginnings and ends of speech: followed while there is more than noise, then estimated.

A frame that is clearly louder than noise is speech. Beyond it, speech that swells and fades is as loud as the noise or
less, and no frame says by itself whether there is any. Several together do: speech goes on to where the sum of their
log-likelihood ratios, of speech as strong as the noise against none, is greatest (the cumulative sum of Page 1954,
"Continuous inspection schemes", Biometrika 41). What is weaker still cannot be heard, but it is known to be there.

Where noise hides much, a silence is found less exactly; and as silences are the rarer the longer they are, one that was
found is, on average, a shorter one that was found too long (the posterior mean of Robbins 1956, "An empirical Bayes
approach to statistics", Tweedie's formula).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.intervals import Interval, widen_intervals
from speechdlm_ext.vad.levels import FRAME_SHIFT, MARGIN, frames_within

SWELL, FADE = 1.0e-5, 3.2e-5  # seconds for the square of a dB: what of beginnings and of ends cannot be followed
_SHRINK = 6e-5  # seconds for the square of a dB by which each side of a silence moves, the shorter it is the more,
_SHORT = 0.4  # down to nothing at that length in seconds
_LONGEST = 10  # frames that speech is followed into the noise
_WITH_SPEECH = 2.0  # power of noise and speech, relative to that of noise


def extend_into_noise(
    stretches: Sequence[Interval],
    over_noise: NDArray[np.float64],
    hidden: float,
    swell: float = SWELL,
    fade: float = FADE,
) -> list[Interval]:
    """Let stretches of clear speech begin earlier and end later, as speech that noise hides does.

    Args:
        stretches: (start, end) in seconds, in order and apart.
        over_noise: level of each frame over the noise in dB, (T,), a frame every 10 ms; -inf where there is no speech,
            whatever is heard. Its median outside of speech is taken for the level of the noise.
        hidden: dB of speech that the noise hides. Speech fades the more slowly the weaker it is: the time that it takes
            grows with their square.
        swell: seconds for the square of a dB that are hidden of a beginning and cannot be followed.
        fade: likewise of an end.

    Returns:
        (start, end) in seconds, in order; half of each silence is the neighbour's.
    """
    if not stretches:
        return []
    outside = over_noise[~frames_within(stretches, len(over_noise), MARGIN) & np.isfinite(over_noise)]
    over_noise = over_noise - (np.median(outside) if len(outside) else 0.0)
    # Powers are gamma-distributed: log (p(x | 2 s) / p(x | s)) is x / s (1 - 1 / 2) - log 2, times the shape.
    ratios = 10 ** (over_noise / 10) * (1 - 1 / _WITH_SPEECH) - np.log(_WITH_SPEECH)
    ratios[np.isneginf(over_noise)] = -np.inf
    duration = len(ratios) * FRAME_SHIFT
    middles = [(one[1] + other[0]) / 2 for one, other in zip(stretches, stretches[1:], strict=False)]
    followed = []
    for first, last, (start, end) in zip([0.0, *middles], [*middles, duration], stretches, strict=True):
        a, b = round(start / FRAME_SHIFT), round(end / FRAME_SHIFT)
        before = ratios[max(0, a - _LONGEST, round(first / FRAME_SHIFT)) : a][::-1]
        after = ratios[b : min(b + _LONGEST, round(last / FRAME_SHIFT))]
        followed.append((start - _most_likely(before) * FRAME_SHIFT, end + _most_likely(after) * FRAME_SHIFT))
    widened = widen_intervals(followed, swell * hidden**2, fade * hidden**2, duration)
    return _shrink_silences(widened, _SHRINK * hidden**2)


def _shrink_silences(stretches: list[Interval], by: float) -> list[Interval]:
    """Make silences of less than ``_SHORT`` seconds shorter, on each side by up to ``by`` seconds; none vanishes."""
    if by <= 0:
        return stretches
    silences = np.array([other[0] - one[1] for one, other in zip(stretches, stretches[1:], strict=False)])
    sides = np.minimum(silences / 2, by * np.maximum(0.0, 1 - silences / _SHORT)).tolist()
    return [
        (round(start - before, 3), round(end + after, 3))
        for (start, end), before, after in zip(stretches, [0.0, *sides], [*sides, 0.0], strict=True)
    ]


def _most_likely(ratios: NDArray[np.float64]) -> int:
    """How many of the frames next to speech (T,) belong to it, by their log-likelihood ratios."""
    sums = np.cumsum(ratios)
    return int(sums.argmax()) + 1 if sums.max(initial=0.0) > 0 else 0
