"""Other voices, rooms and microphones made of one recording: augmentation of synthetic corpora, at 16 kHz."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from speechdlm_ext.io.audio import resample
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Wave

_POINTS, _HOP = 512, 128  # of the Fourier transform
_QUEFRENCY = 30  # samples of the cepstrum that make the envelope: below the periods of voices up to 500 Hz


def play_faster(wave: Wave, speed: float) -> Wave:
    """As a tape runs ``speed`` times as fast: pitch and formants rise by it, the duration falls."""
    rate = round(SAMPLE_RATE * speed / 100) * 100
    return resample(torch.from_numpy(wave), rate, SAMPLE_RATE).numpy()


def change_tempo(wave: Wave, tempo: float) -> Wave:
    """``tempo`` times as fast at the same pitch: windows of 30 ms overlapped where they fit best (WSOLA)."""
    size, reach = round(0.03 * SAMPLE_RATE), round(0.008 * SAMPLE_RATE)
    hop = size // 2
    padded = np.pad(wave, (reach, size + reach + hop))
    window = np.hanning(size + 1)[:-1]
    result = np.zeros(round(len(wave) / tempo) + 2 * size)
    place = reach
    for start in range(0, round(len(wave) / tempo), hop):
        result[start : start + size] += window * padded[place : place + size]
        following = padded[place + hop : place + hop + size]  # what would come next at the old tempo
        wished = min(round((start + hop) * tempo), len(wave))
        choices = padded[wished : wished + size + 2 * reach]
        place = wished + int(np.argmax(np.correlate(choices, following, "valid")))
    return result[: round(len(wave) / tempo)].astype(np.float32)


def shift_formants(wave: Wave, factor: float) -> Wave:
    """Formants ``factor`` times as high at the same pitch: a shorter or longer vocal tract."""
    if len(wave) < _POINTS:
        return wave
    window = torch.hann_window(_POINTS)
    spectrum = torch.stft(torch.from_numpy(wave), _POINTS, _HOP, window=window, return_complex=True)
    log = spectrum.abs().clamp(min=1e-5).log()
    cepstrum = torch.fft.irfft(log, n=_POINTS, dim=0)
    cepstrum[_QUEFRENCY:-_QUEFRENCY] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real
    place = (torch.arange(len(envelope)) / factor).clamp(max=len(envelope) - 1)
    below = place.floor().long()
    above, part = (below + 1).clamp(max=len(envelope) - 1), (place - below)[:, None]
    gain = (envelope[below] * (1 - part) + envelope[above] * part - envelope).clamp(-4, 4).exp()
    made: Wave = torch.istft(spectrum * gain, _POINTS, _HOP, window=window, length=len(wave)).numpy()
    return made


def another_voice(waves: Sequence[Wave], rng: np.random.Generator) -> list[Wave]:
    """Pitch, formants and tempo moved by up to a quarter, each on its own; the same for all of the recordings."""
    speed, formants, tempo = (float(2 ** rng.uniform(-0.33, 0.33)) for _ in range(3))
    return [change_tempo(shift_formants(play_faster(wave, speed), formants / speed), tempo / speed) for wave in waves]


def colour(wave: Wave, rng: np.random.Generator) -> Wave:
    """Another microphone: gains that change smoothly over frequency, by some decibels."""
    spectrum = np.fft.rfft(wave)
    place = np.linspace(0, np.pi, len(spectrum))
    gains = sum(rng.normal(0, 5 / k) * np.cos(k * place + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 4, 5))
    return np.fft.irfft(spectrum * 10 ** (np.asarray(gains) / 20), len(wave)).astype(np.float32)


def room(wave: Wave, rng: np.random.Generator) -> Wave:
    """A room: noise that decays by 60 dB within 0.1 to 0.6 s, 3 to 20 dB below the direct sound."""
    from scipy.signal import fftconvolve

    seconds = float(rng.uniform(0.1, 0.6))
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail *= 10 ** (-float(rng.uniform(3, 20)) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    heard: Wave = fftconvolve(wave, tail)[: len(wave)].astype(np.float32)
    return heard
