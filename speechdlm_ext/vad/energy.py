"""Speech detection by energy: frames that are loud against the channel's own noise floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.metrics.intervals import Interval
from speechdlm_ext.metrics.signal import decibels, short_time_power
from speechdlm_ext.vad.base import Detector, Speech, speech_intervals

_WINDOW = 0.03  # seconds that a decision looks at
_BAND = (100.0, 3700.0)  # Hz: below are hum and handling noise, above it telephone lines carry nothing
_DIGITAL_SILENCE = -95.0  # dB re full scale: a muted line says nothing about its noise
_NOISE, _LOUD = 10.0, 99.0  # percentiles of the frames' levels
_HIGHEST_NOISE = -35.0  # dB re full scale: a noise floor above it is speech without pauses


@dataclass(frozen=True)
class Energy(Detector):
    """frames louder than a share of the range from the channel's noise floor to its loud speech.

    Speech is where the level stays above ``fall`` and somewhere exceeds ``rise``, both shares of that range, so that
    one setting serves quiet and noisy lines. For clean recordings: noise is taken for speech more often than by silero.

    Attributes:
        rise, fall: shares, 0 to 1.
        min_range: dB; a channel with less has no speech.
        lowest_level: dB re full scale; nothing below it is speech.
        min_speech, min_silence: seconds.
    """

    name: ClassVar[str] = "energy"
    packages: ClassVar[tuple[str, ...]] = ("scipy.signal",)
    frame_shift: ClassVar[float] = 0.01

    rise: float = 0.45
    fall: float = 0.3
    min_range: float = 15.0
    lowest_level: float = -75.0
    min_speech: float = 0.06
    min_silence: float = 0.15

    def detect(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """See :meth:`Detector.detect`."""
        return [self._channel(frame_levels(channel, sample_rate)) for channel in np.atleast_2d(wave)]

    def _channel(self, levels: NDArray[np.float64]) -> list[Interval]:
        audible = levels[levels > _DIGITAL_SILENCE]
        if not len(audible):
            return []
        noise, loud = np.percentile(audible, [_NOISE, _LOUD])
        if noise > _HIGHEST_NOISE:
            noise = _HIGHEST_NOISE if len(audible) == len(levels) else self.lowest_level
        if loud - noise < self.min_range:
            return []
        rise, fall = (max(noise + share * (loud - noise), self.lowest_level) for share in (self.rise, self.fall))
        return speech_intervals(levels, self.frame_shift, rise, fall, self.min_speech, self.min_silence)


def frame_levels(wave: ArrayLike, sample_rate: int) -> NDArray[np.float64]:
    """Level of a channel (N,) between 100 and 3700 Hz, in dB re full scale, (T,), every 10 ms."""
    from scipy.signal import butter, sosfilt

    samples = np.asarray(wave, np.float64).reshape(-1)
    if len(samples) < round(Energy.frame_shift * sample_rate):
        return np.zeros(0)
    band = (_BAND[0], min(_BAND[1], 0.46 * sample_rate))
    filtered = sosfilt(butter(4, band, "bandpass", fs=sample_rate, output="sos"), samples - samples.mean())
    return decibels(short_time_power(filtered, sample_rate, Energy.frame_shift, _WINDOW))
