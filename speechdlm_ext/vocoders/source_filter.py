"""The sound that a voice starts from, pulses where it is voiced and noise where it is not, and the filter after it."""

from __future__ import annotations

import torch

# Above this frequency voiced speech is mostly breath; the change takes about its width.
_BREATH_HZ, _BREATH_WIDTH_HZ = 4000.0, 600.0
# The pitch rises by up to this part above and falls below the voice's own, with how much of the surroundings is voiced.
_INTONATION, _PHRASE_SECONDS = 0.15, 0.4


def voicing(features: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """How voiced spectra are, 0 to 1, from their level and tilt.

    Over the clusters of read and telephone speech, 0.7 × the tilt + the level of the low bands goes with the strength
    of the periodicity that autocorrelation finds (r = 0.89 to 0.93); 10 is where it is half.

    Args:
        features: (T, D) in dB relative to the active level.
        low: which of the D bands lie between 80 and 1000 Hz.
        high: which lie above 2500 Hz.

    Returns:
        Voicing (T,).
    """
    power = 10 ** (features / 10)
    level = 10 * torch.log10(power[:, low].mean(dim=1))
    tilt = level - 10 * torch.log10(power[:, high].mean(dim=1))
    return torch.sigmoid((level + 0.7 * tilt - 10) / 4)


def pitch_contour(voiced: torch.Tensor, pitch: float, rate: float) -> torch.Tensor:
    """A pitch (T,) in Hz that rises and falls with the phrases.

    Args:
        voiced: voicing (T,), at ``rate`` Hz.
        pitch: of the voice, in Hz.
        rate: of the frames, in Hz.
    """
    reach = max(1, round(_PHRASE_SECONDS * rate / 2))
    kernel = torch.hann_window(2 * reach + 1, periodic=False)
    padded = torch.nn.functional.pad(voiced[None, None], (reach, reach), mode="replicate")
    phrase = torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[0, 0]
    return pitch * (1 + _INTONATION * (2 * phrase - 1))


def pulses(pitch: torch.Tensor, sample_rate: int, phase: float = 0.0) -> torch.Tensor:
    """A train of pulses with a mean square of 1.

    Args:
        pitch: of every sample (N,), in Hz.
        sample_rate: in Hz.
        phase: before the first sample, in periods.

    Returns:
        Samples (N,); a pulse between two samples is shared by them.
    """
    phases = torch.cumsum(pitch.double() / sample_rate, dim=0) + phase
    number = phases.floor()
    starts = torch.nonzero(number[1:] > number[:-1])[:, 0] + 1
    late = ((phases[starts] - number[starts]) * sample_rate / pitch[starts]).clamp(0, 1).float()
    height = (sample_rate / pitch[starts]).sqrt()
    train = torch.zeros(len(pitch))
    train[starts] += height * (1 - late)
    train[starts - 1] += height * late
    return train


def harmonic_share(voiced: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """The share of pulses in the power (F, T), the rest being noise, from voicing (T,) at frequencies (F,) in Hz."""
    return torch.sigmoid((_BREATH_HZ - frequencies) / _BREATH_WIDTH_HZ)[:, None] * voiced[None]


def minimum_phase(magnitudes: torch.Tensor) -> torch.Tensor:
    """The minimum-phase spectra with these magnitudes, by folding the cepstrum (Oppenheim & Schafer).

    A voice's resonances ring after each pulse and not before it; with phases of zero the sound would be all peaks.

    Args:
        magnitudes: (n, F) from 0 Hz to half the sample rate.

    Returns:
        Complex spectra (n, F).
    """
    log = magnitudes.clamp_min(1e-7 * float(magnitudes.max()) + 1e-30).log()
    cepstrum = torch.fft.irfft(log)
    half = cepstrum.shape[1] // 2
    cepstrum[:, 1:half] *= 2
    cepstrum[:, half + 1 :] = 0
    return torch.exp(torch.fft.rfft(cepstrum))
