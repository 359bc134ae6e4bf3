"""Speech activity from energy: when somebody speaks on a channel, judged against that channel's own noise floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.metrics.intervals import Interval, bridge_silences

FRAME_SHIFT = 0.01  # seconds between two decisions
_WINDOW = 0.03  # seconds that one decision looks at
_SILENT = -100.0  # dB re full scale: what digital silence counts as


@dataclass(frozen=True)
class ActivityOptions:
    """Thresholds of :func:`detect_speech`; levels in dB, times in seconds.

    Speech begins where the level rises above ``floor + rise`` and goes on while it stays above ``floor + fall``
    (hysteresis keeps weak endings). ``rise`` and ``fall`` are shares of the channel's dynamic range (its loud level
    less its noise floor), so that one setting serves quiet and noisy lines; a channel whose range is below
    ``least_range`` has no speech. Speech also ends ``below_loud`` under loud speech, however quiet the noise is, and
    ``above_noise`` over the floor. They were chosen for boundaries within 100 ms of the truth and for true rates in
    made conversations, with noise of -75 to -45 dB and levels 20 dB apart (docs/evaluation.md).
    """

    floor_percentile: float = 10.0  # of the frame levels: the noise floor
    loud_percentile: float = 99.0  # of the frame levels: loud speech
    rise: float = 0.4
    fall: float = 0.1
    above_noise: float = 4.0
    below_loud: float = 34.0
    least_range: float = 15.0
    highest_floor: float = -35.0  # dB re full scale: a higher percentile is speech, not noise
    muted_floor: float = -70.0  # dB re full scale: what counts as the floor where the background is digital silence
    lowest_level: float = -70.0  # dB re full scale: nothing below this is speech, however quiet the background
    shortest_speech: float = 0.06
    shortest_silence: float = 0.1


def frame_levels(wave: ArrayLike, sample_rate: int) -> NDArray[np.float64]:
    """Level of each frame in dB re full scale.

    Only what lies between 100 and 3700 Hz counts: below it are hum and handling noise, above it a telephone line
    carries nothing, so that calls which were sampled at 8 kHz are judged like all others.

    Args:
        wave: one channel, shape (N,), full scale 1.
        sample_rate: Hz.

    Returns:
        Levels (T,), one every 10 ms, over windows of 30 ms centred on the middle of the frame.
    """
    samples = np.asarray(wave, dtype=np.float64).reshape(-1)
    shift = round(FRAME_SHIFT * sample_rate)
    frames = len(samples) // shift
    if not frames:
        return np.zeros(0)
    samples = _band_pass(samples - samples.mean(), sample_rate)
    margin = (round(_WINDOW * sample_rate) - shift) // 2
    energy = np.concatenate(([0.0], np.cumsum(samples**2)))
    starts = np.arange(frames) * shift
    first, last = np.maximum(starts - margin, 0), np.minimum(starts + shift + margin, len(samples))
    power = (energy[last] - energy[first]) / (last - first)
    return 10 * np.log10(np.maximum(power, 10 ** (_SILENT / 10)))


def _band_pass(samples: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    from scipy.signal import butter, sosfilt

    high = min(3700.0, 0.46 * sample_rate)
    return np.asarray(sosfilt(butter(4, (100.0, high), "bandpass", fs=sample_rate, output="sos"), samples))


def noise_floor(levels: NDArray[np.float64], options: ActivityOptions | None = None) -> float:
    """Noise floor of a channel in dB re full scale, from its frame levels (T,).

    A low percentile of the frames that are not digital silence (a muted line says nothing about its noise). Where even
    that is above ``highest_floor`` it is speech: the floor is then ``highest_floor``, or the digital silence.
    """
    options = options or ActivityOptions()
    heard = levels[levels > _SILENT + 5]
    if not len(heard):
        return _SILENT
    floor = float(np.percentile(heard, options.floor_percentile))
    if floor <= options.highest_floor:
        return floor
    return options.highest_floor if len(heard) == len(levels) else options.muted_floor


def detect_speech(wave: ArrayLike, sample_rate: int, options: ActivityOptions | None = None) -> list[Interval]:
    """When somebody speaks on one channel.

    Args:
        wave: one channel, shape (N,), full scale 1.
        sample_rate: Hz.
        options: thresholds.

    Returns:
        Stretches of speech, (start, end) in seconds on a grid of 10 ms; silences below ``shortest_silence`` are part
        of them.
    """
    options = options or ActivityOptions()
    levels = frame_levels(wave, sample_rate)
    if not len(levels):
        return []
    floor = noise_floor(levels, options)
    loud = float(np.percentile(levels[levels > _SILENT + 5], options.loud_percentile)) if floor > _SILENT else floor
    if loud - floor < options.least_range:
        return []
    end = floor + max(options.above_noise, options.fall * (loud - floor))
    fall = max(end, loud - options.below_loud, options.lowest_level)
    rise = max(floor + options.rise * (loud - floor), fall)
    return speech_stretches(
        levels, FRAME_SHIFT, SpeechRule(rise, fall, options.shortest_speech, options.shortest_silence)
    )


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
