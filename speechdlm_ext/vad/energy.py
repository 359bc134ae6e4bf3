"""Speech activity from energy: when somebody speaks on a channel, judged against that channel's own noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.metrics.intervals import Interval, bridge_silences
from speechdlm_ext.vad.crosstalk import leaking_frames
from speechdlm_ext.vad.fading import FADE, SWELL, extend_into_noise
from speechdlm_ext.vad.levels import FRAME_SHIFT, SILENT, ChannelLevels, measure_levels


@dataclass(frozen=True)
class ActivityOptions:
    """Thresholds of :func:`detect_speech`; levels in dB, times in seconds.

    Speech is where a channel is ``above_noise`` over its noise, taken in bands, and not ``below_loud`` under its loud
    speech, in stretches that somewhere rise above ``floor + rise`` (hysteresis keeps weak endings) and, where there
    are other channels, to less than ``weakest`` under loud speech: what leaks in from them does not. ``rise`` and
    ``fall`` are shares of the channel's dynamic range (its loud level less its noise floor), so that one setting serves
    quiet and noisy lines; a channel whose range is below ``least_range`` has no speech.

    Where noise, not ``below_loud``, sets the threshold, beginnings and ends are followed into it, and what cannot be
    followed is added: ``swell`` and ``fade`` are of :func:`.fading.extend_into_noise`. Without it, noise makes pauses
    longer, and makes more of them.

    Chosen on made conversations (docs/evaluation.md says how, and how good they are on others).
    """

    floor_percentile: float = 10.0  # of the frame levels: the noise floor
    loud_percentile: float = 99.0  # of the frame levels: loud speech
    rise: float = 0.45
    fall: float = 0.0
    above_noise: float = 3.0  # 0: bands are not looked at, and nothing is followed into noise
    below_loud: float = 38.0
    weakest: float = 25.0
    least_range: float = 15.0
    highest_floor: float = -35.0  # dB re full scale: a higher percentile is speech, not noise
    muted_floor: float = -70.0  # dB re full scale: what counts as the floor where the background is digital silence
    lowest_level: float = -75.0  # dB re full scale: nothing below this is speech, however quiet the background
    shortest_speech: float = 0.06
    shortest_silence: float = 0.15
    window: float = FRAME_SHIFT  # seconds that one decision looks at
    swell: float = SWELL  # seconds for the square of a dB
    fade: float = FADE


def noise_floor(levels: NDArray[np.float64], options: ActivityOptions | None = None) -> float:
    """Noise floor of a channel in dB re full scale, from its frame levels (T,).

    A low percentile of the frames that are not digital silence (a muted line says nothing about its noise). Where even
    that is above ``highest_floor`` it is speech: the floor is then ``highest_floor``, or the digital silence.
    """
    options = options or ActivityOptions()
    heard = levels[levels > SILENT + 5]
    if not len(heard):
        return SILENT
    floor = float(np.percentile(heard, options.floor_percentile))
    if floor <= options.highest_floor:
        return floor
    return options.highest_floor if len(heard) == len(levels) else options.muted_floor


def detect_speech_of_channels(
    wave: NDArray[np.float32], sample_rate: int, options: ActivityOptions | None = None
) -> list[list[Interval]]:
    """When somebody speaks on each channel of a recording (C, N): see :func:`detect_speech`."""
    options = options or ActivityOptions()
    channels = [measure_levels(channel, sample_rate, options.window) for channel in wave]
    return [_find_speech(one, channels[:c] + channels[c + 1 :], options) for c, one in enumerate(channels)]


def detect_speech(wave: ArrayLike, sample_rate: int, options: ActivityOptions | None = None) -> list[Interval]:
    """When somebody speaks on a recording of one channel.

    Args:
        wave: shape (N,), full scale 1.
        sample_rate: Hz.
        options: thresholds.

    Returns:
        Stretches of speech, (start, end) in seconds on a grid of 10 ms, but for what is added to them where noise hides
        weak speech; silences below ``shortest_silence`` are part of them.
    """
    options = options or ActivityOptions()
    return _find_speech(measure_levels(wave, sample_rate, options.window), [], options)


def _find_speech(channel: ChannelLevels, others: Sequence[ChannelLevels], options: ActivityOptions) -> list[Interval]:
    """Speech by the levels of one channel; other channels hold other people, so that what is weak here is theirs."""
    levels = channel.level
    if not len(levels):
        return []
    floor = noise_floor(levels, options)
    loud = float(np.percentile(levels[levels > SILENT + 5], options.loud_percentile)) if floor > SILENT else floor
    if loud - floor < options.least_range:
        return []
    fall = max(floor + options.fall * (loud - floor), loud - options.below_loud, options.lowest_level)
    rise = max(floor + options.rise * (loud - floor), loud - options.weakest if others else fall, fall)
    rule = SpeechRule(rise, fall, options.shortest_speech, options.shortest_silence)
    if options.above_noise <= 0:
        return speech_stretches(levels, FRAME_SHIFT, rule)
    over, total = _over_noise(channel, floor, options), channel.total()
    leaking, _ = leaking_frames(channel, others, floor)
    own = ~leaking
    found = speech_stretches(np.where(own & (over > options.above_noise), total, SILENT), FRAME_SHIFT, rule)
    audible = min(loud - fall, float(np.percentile(over, options.loud_percentile)) - options.above_noise)
    own &= total > max(loud - options.below_loud, options.lowest_level)
    hidden = max(0.0, options.below_loud - audible)
    return extend_into_noise(found, np.where(own, over, -np.inf), hidden, options.swell, options.fade)


def _over_noise(channel: ChannelLevels, floor: float, options: ActivityOptions) -> NDArray[np.float64]:
    """Level of each frame over the noise in dB, 0 at the floor's percentile: (T,)."""
    heard = channel.level > SILENT + 5
    smooth = np.apply_along_axis(np.convolve, 1, channel.powers, np.full(3, 1 / 3), "same")
    noise = np.percentile(smooth[:, heard], options.floor_percentile, axis=1)
    over = channel.over_noise(noise)
    own = float(np.percentile(channel.level[heard], options.floor_percentile))
    # Where noise_floor says that the percentile is speech, the bands' percentiles are, too.
    return over - float(np.percentile(over[heard], options.floor_percentile)) + max(0.0, own - floor)


@dataclass(frozen=True)
class SpeechRule:
    """How a value for each frame becomes speech: see :func:`speech_stretches`; times in seconds."""

    rise: float
    fall: float
    shortest_speech: float
    shortest_silence: float


def speech_stretches(values: NDArray[np.float64], frame_shift: float, rule: SpeechRule) -> list[Interval]:
    """Stretches of frames above ``fall`` that reach ``rise``; short silences are bridged, then short speech dropped.

    Args:
        values: one for each frame, (T,).
        frame_shift: seconds.
        rule: thresholds.

    Returns:
        (start, end) in seconds.
    """
    stretches = [(a * frame_shift, b * frame_shift) for a, b in _above(values, rule.rise, rule.fall)]
    bridged = bridge_silences(stretches, rule.shortest_silence)
    return [(round(a, 3), round(b, 3)) for a, b in bridged if b - a >= rule.shortest_speech - 1e-6]


def _above(levels: NDArray[np.float64], rise: float, fall: float) -> list[tuple[int, int]]:
    """Runs of frames above ``fall`` that reach ``rise`` somewhere: (first, one past the last)."""
    above = np.concatenate(([0], (levels > fall).astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(above)).reshape(-1, 2)
    reached = np.concatenate(([0], np.cumsum(levels > rise)))
    return [(int(a), int(b)) for a, b in edges if reached[b] > reached[a]]
