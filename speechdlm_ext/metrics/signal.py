"""Figures of sound, so that a broken vocoder or a muted line is seen: level, clipping, silence, bandwidth, DC, SNR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.metrics.intervals import Interval, intervals_to_frames

FULL = 0.999  # of full scale: what counts as clipped, if two or more samples in a row are there
SILENT = 1e-5  # of full scale, -100 dB: what counts as digital silence
BELOW_PEAK = 60.0  # dB below the strongest part of the spectrum: what counts as nothing
_WINDOW = 0.032  # seconds of a spectrum
_SMOOTH = 100.0  # Hz


def short_time_power(wave: ArrayLike, sample_rate: int, shift: float, window: float = 0.0) -> NDArray[np.float64]:
    """Mean square of frames, (T,), of a channel (N,).

    Args:
        wave: samples, full scale at ±1.
        sample_rate: Hz.
        shift: seconds between frames; what is left over at the end is in no frame of its own.
        window: seconds around the middle of each frame that are averaged; at least ``shift``.
    """
    samples = np.asarray(wave, np.float64).reshape(-1)
    step, margin = shift * sample_rate, max(0.0, (window - shift) * sample_rate / 2)
    starts = np.arange(int(len(samples) / step + 1e-6)) * step  # not whole at 22.05 kHz: rounded below, without drift
    energy = np.concatenate(([0.0], np.cumsum(samples**2)))
    first = np.rint(np.maximum(starts - margin, 0)).astype(np.int64)
    last = np.rint(np.minimum(starts + step + margin, len(samples))).astype(np.int64)
    return np.asarray(np.maximum(energy[last] - energy[first], 0.0) / (last - first))


def decibels(power: ArrayLike) -> NDArray[np.float64]:
    """Power re full scale in dB, not below -100."""
    return np.asarray(10 * np.log10(np.maximum(power, 1e-10)), np.float64)


class SoundMeter:
    """Measures the channels of a recording piece by piece, so that memory stays bounded.

    Args:
        sample_rate: Hz.
        channels: number of channels.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate = sample_rate
        self._size = 2 * round(_WINDOW * sample_rate / 2)
        self._samples = 0
        self._sums = np.zeros((channels, 2))  # of the samples, and of their squares
        self._peaks = np.zeros(channels)
        self._clipped = np.zeros(channels)
        self._silent = np.zeros(channels)
        self._speech = np.zeros((channels, 2))  # samples inside and outside of speech
        self._powers = np.zeros((channels, 2))  # sums of their squares
        self._spectra = np.zeros((channels, self._size // 2 + 1))

    def add(self, wave: NDArray[np.float32], activity: Sequence[Sequence[Interval]]) -> None:
        """Take in the next piece.

        Args:
            wave: samples (C, N), full scale at ±1.
            activity: speech of each channel in this piece, (start, end) in seconds from its beginning.
        """
        self._samples += wave.shape[1]
        for number, (samples, intervals) in enumerate(zip(wave.astype(np.float64), activity, strict=True)):
            self._sums[number] += samples.sum(), (samples**2).sum()
            self._peaks[number] = max(self._peaks[number], np.abs(samples).max(initial=0.0))
            full = np.abs(samples) >= FULL
            alone = ~np.concatenate(([False], full[:-1])) & ~np.concatenate((full[1:], [False]))
            self._clipped[number] += (full & ~alone).sum()
            self._silent[number] += (np.abs(samples) < SILENT).sum()
            self._add_speech(number, samples, intervals)
            self._spectra[number] += self._spectrum(samples)

    def _add_speech(self, number: int, samples: NDArray[np.float64], intervals: Sequence[Interval]) -> None:
        inside = intervals_to_frames(intervals, len(samples), 1 / self.sample_rate)
        power = (samples - samples.mean()) ** 2 if len(samples) else samples
        for column, chosen in enumerate((inside, ~inside)):
            self._speech[number, column] += chosen.sum()
            self._powers[number, column] += power[chosen].sum()

    def _spectrum(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        count = len(samples) // self._size
        if not count:
            return np.zeros(self._size // 2 + 1)
        frames = samples[: count * self._size].reshape(count, self._size)
        frames = (frames - frames.mean(axis=1, keepdims=True)) * np.blackman(self._size)
        return np.asarray((np.abs(np.fft.rfft(frames)) ** 2).sum(axis=0))

    def figures(self) -> list[dict[str, Any]]:
        """For each channel:

        ``level`` and ``peak`` (dB re full scale), ``clipped`` and ``silent`` (shares of the samples: at full scale two
        or more in a row; digital silence), ``bandwidth`` (Hz: above it the spectrum is 60 dB below its peak), ``dc``
        (share of full scale), ``snr`` (dB: speech over what is outside of speech), ``reason`` (None, or why some are
        None).
        """
        return [self._channel(number) for number in range(len(self._sums))]

    def _channel(self, number: int) -> dict[str, Any]:
        if not self._samples:
            names = ("level", "peak", "clipped", "silent", "bandwidth", "dc", "snr")
            return {**dict.fromkeys(names), "reason": "there is no sound"}
        mean, square = self._sums[number] / self._samples
        snr, why = self._snr(number)
        if not square:
            why = "the channel is digital silence"
        return {
            "level": _decibels(square),
            "peak": _decibels(self._peaks[number] ** 2),
            "clipped": float(self._clipped[number] / self._samples),
            "silent": float(self._silent[number] / self._samples),
            "bandwidth": self._bandwidth(number),
            "dc": float(mean),
            "snr": snr,
            "reason": why,
        }

    def _bandwidth(self, number: int) -> float | None:
        spectrum = self._spectra[number]
        if not spectrum.max():
            return None
        width = max(1, round(_SMOOTH * self._size / self.sample_rate))
        smooth = np.convolve(spectrum, np.ones(width) / width, "same")
        above = np.flatnonzero(smooth > smooth.max() * 10 ** (-BELOW_PEAK / 10))
        return float(above[-1] * self.sample_rate / self._size)

    def _snr(self, number: int) -> tuple[float | None, str | None]:
        inside, outside = self._speech[number]
        if not inside or not outside:
            return None, "no speech was found" if not inside else "there is nothing but speech"
        speech, noise = self._powers[number] / self._speech[number]
        if noise < SILENT**2:
            return None, "there is no noise outside of speech"
        if speech <= noise:
            return None, "speech is not above the noise"
        return float(10 * np.log10((speech - noise) / noise)), None


def pool_sound(figures: Sequence[Sequence[dict[str, Any]]], durations: Sequence[float]) -> list[dict[str, Any]]:
    """Figures of several recordings for each channel: means weighted by duration, the highest of the peaks.

    The mean of levels is that of their powers.

    Args:
        figures: of each recording, as :meth:`SoundMeter.figures`.
        durations: seconds of each.
    """
    pooled = []
    for number in range(max(map(len, figures), default=0)):
        rows = [(own[number], t) for own, t in zip(figures, durations, strict=True) if number < len(own)]
        channel: dict[str, Any] = {}
        for name in ("level", "peak", "clipped", "silent", "bandwidth", "dc", "snr"):
            known = [(row[name], t) for row, t in rows if row[name] is not None and t > 0]
            if not known:
                channel[name] = None
            elif name == "peak":
                channel[name] = max(value for value, _ in known)
            else:
                values, seconds = np.array(known, np.float64).T
                if name == "level":
                    channel[name] = float(10 * np.log10(np.average(10 ** (values / 10), weights=seconds)))
                else:
                    channel[name] = float(np.average(values, weights=seconds))
        reasons = [row["reason"] for row, _ in rows if row["reason"]]
        channel["reason"] = reasons[0] if None in channel.values() and reasons else None
        pooled.append(channel)
    return pooled


def _decibels(power: float) -> float | None:
    return float(10 * np.log10(power)) if power > 0 else None
