"""How loud a channel is, frame by frame: in dB re full scale, and in bands over each band's own noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.metrics.intervals import Interval

FRAME_SHIFT = 0.01  # seconds between two frames
MARGIN = 0.1  # seconds around speech that are neither speech nor noise
SILENT = -100.0  # dB re full scale: what digital silence counts as
_SPECTRUM = 0.016  # seconds of a spectrum's window
# Hz. Hum fills the first band and hiss the last; speech that is weak in one is often strong in another.
_BANDS = ((100.0, 500.0), (500.0, 1500.0), (1500.0, 3700.0), (3700.0, 7600.0))
_LEAST_NOISE = 10 ** (-95 / 10)  # of a band, re full scale: below it are rounding errors and what a resampler left


@dataclass(frozen=True)
class ChannelLevels:
    """One channel: ``level`` in dB re full scale (T,), and ``powers`` of its bands (B, T), a frame every 10 ms."""

    level: NDArray[np.float64]
    powers: NDArray[np.float64]

    def total(self) -> NDArray[np.float64]:
        """Level of all bands together, in dB re full scale (T,): ``level`` and what sibilants have above 3700 Hz."""
        if not len(self.powers):
            return np.full(len(self.level), SILENT)
        return 10 * np.log10(np.maximum(self.powers.sum(axis=0), 10 ** (SILENT / 10)))

    def over_noise(self, noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """Level over the noise, in dB (T,): the mean, over the bands, of power relative to that of the noise (B,)."""
        if not len(self.powers):
            return np.full(len(self.level), SILENT)
        ratio = np.mean(self.powers / np.maximum(noise, _LEAST_NOISE)[:, None], axis=0)
        return 10 * np.log10(np.maximum(ratio, 10 ** (SILENT / 10)))


def measure_levels(wave: ArrayLike, sample_rate: int, window: float = FRAME_SHIFT) -> ChannelLevels:
    """Level and band powers of one channel (N,), full scale 1; see :func:`frame_levels`."""
    level = frame_levels(wave, sample_rate, window)
    return ChannelLevels(level, _band_powers(wave, sample_rate, len(level)))


def frames_within(stretches: Sequence[Interval], frames: int, margin: float = 0.0) -> NDArray[np.bool_]:
    """Which of ``frames`` frames lie in the stretches (start, end), in seconds, and ``margin`` around them: (T,)."""
    within = np.zeros(frames, bool)
    for start, end in stretches:
        within[max(0, round((start - margin) / FRAME_SHIFT)) : max(0, round((end + margin) / FRAME_SHIFT))] = True
    return within


def frame_levels(wave: ArrayLike, sample_rate: int, window: float = FRAME_SHIFT) -> NDArray[np.float64]:
    """Level of each frame in dB re full scale.

    Only what lies between 100 and 3700 Hz counts: below it are hum and handling noise, above it a telephone line
    carries nothing, so that calls which were sampled at 8 kHz are judged like all others.

    Args:
        wave: one channel, shape (N,), full scale 1.
        sample_rate: Hz.
        window: seconds that each frame looks at, around its middle. What is longer than 10 ms lets speech begin early
            and end late, by half of what it is longer.

    Returns:
        Levels (T,), one every 10 ms.
    """
    samples = np.asarray(wave, dtype=np.float64).reshape(-1)
    shift = round(FRAME_SHIFT * sample_rate)
    frames = len(samples) // shift
    if not frames:
        return np.zeros(0)
    samples = _band_pass(samples - samples.mean(), sample_rate)
    margin = (round(window * sample_rate) - shift) // 2
    energy = np.concatenate(([0.0], np.cumsum(samples**2)))
    starts = np.arange(frames) * shift
    first, last = np.maximum(starts - margin, 0), np.minimum(starts + shift + margin, len(samples))
    power = (energy[last] - energy[first]) / (last - first)
    return 10 * np.log10(np.maximum(power, 10 ** (SILENT / 10)))


def _band_pass(samples: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    from scipy.signal import butter, sosfilt

    high = min(3700.0, 0.46 * sample_rate)
    return np.asarray(sosfilt(butter(4, (100.0, high), "bandpass", fs=sample_rate, output="sos"), samples))


def _band_powers(wave: ArrayLike, sample_rate: int, frames: int) -> NDArray[np.float64]:
    """Mean square in each band that the sample rate allows, (B, T), by spectra of 16 ms around each frame's middle."""
    if not frames:
        return np.zeros((0, 0))
    samples = np.asarray(wave, dtype=np.float32).reshape(-1)
    shift, length = round(FRAME_SHIFT * sample_rate), round(_SPECTRUM * sample_rate)
    margin = (length - shift) // 2
    padded = np.pad(samples - samples.mean(), (margin, length))
    window = np.hanning(length + 1)[:-1].astype(np.float32)
    hertz = np.fft.rfftfreq(length, 1 / sample_rate)
    places = [np.flatnonzero((hertz >= low) & (hertz < min(high, 0.46 * sample_rate))) for low, high in _BANDS]
    places = [place for place in places if len(place) > 1]
    powers = np.empty((len(places), frames))
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::shift][:frames]
    for first in range(0, frames, 2000):  # so that memory stays small
        spectra = np.abs(np.fft.rfft(windows[first : first + 2000] * window)) ** 2
        for band, place in zip(powers, places, strict=True):
            band[first : first + 2000] = spectra[:, place[0] : place[-1] + 1].sum(axis=1)
    return powers * 2 / (length * float((window**2).sum()))
