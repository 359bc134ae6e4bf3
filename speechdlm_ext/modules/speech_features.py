"""Log-mel bands and MFCC as NeMo's recognisers take them, computed on the device, exact in padded batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.modules.padding import frame_mask
from speechdlm_ext.neural_types import AudioSignal, LengthsType, NeuralType, SpectrogramType, typecheck

LOG_MEL = "AudioToMelSpectrogramPreprocessor"
MFCC = "AudioToMFCCPreprocessor"
_MOST_POINTS = 1 << 16
_EPSILON = 1e-5  # added to the standard deviation
_WINDOWS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
# Options of published configurations that change nothing here: training alone, old spellings of a default.
_WITHOUT_EFFECT = {"nb_augmentation_prob", "nb_max_freq", "rng", "stft_conv", "use_torchaudio"}


class SpeechFeatures(nn.Module):
    """What both kinds of features have in common; buffers stay float32 when a model is cast to another precision.

    Attributes:
        sample_rate: of the sound, in Hz.
        hop: samples between two frames.
        dim: number of bands or coefficients D.
        dither: standard deviation of the noise that is added in training.
    """

    dither: float = 0.0

    def __init__(self, sample_rate: int, window_size: float, window_stride: float, n_fft: int | None, dim: int) -> None:
        super().__init__()
        self.sample_rate, self.dim = sample_rate, dim
        self.window_length, self.hop = int(window_size * sample_rate), int(window_stride * sample_rate)
        self.n_fft = n_fft or 2 ** math.ceil(math.log2(max(1, self.window_length)))
        if not 0 < self.hop <= self.window_length <= self.n_fft <= _MOST_POINTS or not 0 < dim <= self.n_fft:
            raise InputError(
                f"features: a window of {self.window_length} samples every {self.hop} in {self.n_fft} points, {dim} "
                f"bands; expected 0 < stride ≤ window ≤ points ≤ {_MOST_POINTS}, and no more bands than points"
            )

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def spectrum(self, wave: Tensor, lengths: Tensor, window: Tensor, reflect: bool) -> Tensor:
        """Power spectrum (B, n_fft // 2 + 1, N // hop + 1) of sound (B, N) with N_i valid samples per row.

        Each row continues beyond its own end as it would alone: with zeros, or with its reflection. In double
        precision: in single, quiet bands differ by 1e-4 from one processor to the next. In training with dither, which
        is a hundred times as loud as that, in single.
        """
        padded = _reflect_ends(wave, lengths, self.n_fft // 2) if reflect else F.pad(wave, (self.n_fft // 2,) * 2)
        return self.power(padded, window)

    def power(self, padded: Tensor, window: Tensor) -> Tensor:
        """Power spectrum (B, n_fft // 2 + 1, T) of sound (B, N) that is padded already, T = (N - n_fft) // hop + 1."""
        kind = torch.float32 if self.training and self.dither > 0 else torch.float64
        spectrum = torch.stft(
            padded.to(kind),
            self.n_fft,
            self.hop,
            self.window_length,
            window.to(kind),
            center=False,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()  # a sum over an axis of two takes ten times as long
        return power.float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpeechFeatures:
        """Move, but do not round: bands computed with half-precision filters are others."""
        kept = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, old in kept.items():
            new = self.get_buffer(name)
            if new.dtype != old.dtype:
                place, _, leaf = name.rpartition(".")
                self.get_submodule(place)._buffers[leaf] = old.to(new.device)
        return self


class LogMelFeatures(SpeechFeatures):
    """Log-mel bands: pre-emphasis, STFT, Slaney's mel filters, logarithm, normalization by recording.

    Args:
        sample_rate: Hz.
        window_size, window_stride: seconds.
        n_fft: points of the Fourier transform (default: the next power of two).
        features: number of bands.
        lowfreq, highfreq: Hz (default: to half the sample rate).
        window: ``hann``, ``hamming``, ``blackman`` or ``bartlett``; symmetric.
        preemph: factor of the pre-emphasis; None for none.
        normalize: ``per_feature`` (mean and deviation of each band over the valid frames), ``all_features`` (one of
            each for the recording); anything else: none.
        log: take the logarithm.
        log_zero_guard_type, log_zero_guard_value: ``add`` or ``clamp``; a number, ``tiny`` or ``eps``.
        dither: standard deviation of the noise that is added in training.
        pad_to: frames are padded to a multiple of it; 0 for none.
        mag_power: exponent of the magnitude.
        mel_norm: ``slaney`` scales each filter to equal area; anything else: none.
        reflect: the front end of NeMo before 2.5.0 (July 2025): the sound is reflected at its ends, not continued with
            zeros; one frame more is valid, N // hop + 1 rather than N // hop.
    """

    window: Tensor
    fb: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        window_size: float = 0.02,
        window_stride: float = 0.01,
        n_fft: int | None = None,
        features: int = 64,
        lowfreq: float = 0.0,
        highfreq: float | None = None,
        window: str = "hann",
        preemph: float | None = 0.97,
        normalize: str | None = "per_feature",
        log: bool = True,
        log_zero_guard_type: str = "add",
        log_zero_guard_value: float | str = 2**-24,
        dither: float = 1e-5,
        pad_to: int = 16,
        mag_power: float = 2.0,
        mel_norm: str | None = "slaney",
        reflect: bool = False,
    ) -> None:
        super().__init__(sample_rate, window_size, window_stride, n_fft, features)
        if log_zero_guard_type not in ("add", "clamp"):
            raise InputError(f"log_zero_guard_type {log_zero_guard_type}: expected add or clamp")
        named = {"tiny": torch.finfo(torch.float32).tiny, "eps": torch.finfo(torch.float32).eps}
        self.preemph, self.normalize, self.log, self.clamp = preemph, normalize, log, log_zero_guard_type == "clamp"
        self.guard = float(named.get(str(log_zero_guard_value), log_zero_guard_value))
        self.dither, self.pad_to, self.mag_power, self.reflect = dither, pad_to, mag_power, reflect
        self.register_buffer("window", _window(window, self.window_length, periodic=False))
        self.register_buffer("fb", _slaney_filters(self, lowfreq, highfreq, mel_norm).T[None].contiguous())

    def frames(self, samples: Tensor) -> Tensor:
        """Valid frames of recordings of so many samples (B,)."""
        return torch.where(samples > 0, samples // self.hop + int(self.reflect), 0)

    @torch.autocast("cuda", enabled=False)
    @torch.no_grad()
    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Bands (B, D, T), zero beyond the valid frames, and the valid frames (B,), of sound (B, N), (B,) samples."""
        wave = wave.float()
        if self.training and self.dither > 0:
            wave = wave + self.dither * torch.randn_like(wave)
        if self.preemph is not None:
            wave = torch.cat((wave[:, :1], wave[:, 1:] - self.preemph * wave[:, :-1]), dim=1)
        wave = wave.masked_fill(~frame_mask(lengths, wave.shape[1]), 0.0)
        bands = self.bands(self.spectrum(wave, lengths, self.window, self.reflect))
        valid = self.frames(lengths)
        mask = frame_mask(valid, bands.shape[2])[:, None]
        bands = _normalized(bands, mask, self.normalize)
        padding = -bands.shape[2] % self.pad_to if self.pad_to > 0 else 0
        return F.pad(bands.masked_fill(~mask, 0.0), (0, padding)), valid

    def bands(self, power: Tensor) -> Tensor:
        """Bands (B, D, T), not normalized, of power spectra (B, n_fft // 2 + 1, T)."""
        if self.mag_power != 2.0:
            power = power.pow(self.mag_power / 2)
        bands = self.fb @ power
        if self.log:
            bands = (bands.clamp(min=self.guard) if self.clamp else bands + self.guard).log()
        return bands


class MFCCFeatures(SpeechFeatures):
    """Mel-frequency cepstral coefficients: reflected ends, HTK's mel filters, logarithm, DCT-II.

    Args:
        n_mels, n_mfcc: numbers of bands and of coefficients.
        window: as the others of :class:`LogMelFeatures`, but periodic.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window_size: float = 0.02,
        window_stride: float = 0.01,
        n_fft: int | None = None,
        n_mels: int = 64,
        n_mfcc: int = 64,
        lowfreq: float = 0.0,
        highfreq: float | None = None,
        window: str = "hann",
    ) -> None:
        from torchaudio.functional import create_dct, melscale_fbanks

        super().__init__(sample_rate, window_size, window_stride, n_fft, n_mfcc)
        if not n_mfcc <= n_mels <= self.n_fft:
            raise InputError(f"features: {n_mfcc} coefficients of {n_mels} bands in {self.n_fft} points are impossible")
        # Modules for the names of published weights alone.
        self.MelSpectrogram = nn.Module()
        self.MelSpectrogram.spectrogram = nn.Module()
        self.MelSpectrogram.mel_scale = nn.Module()
        self.register_buffer("dct_mat", create_dct(n_mfcc, n_mels, "ortho"))
        self.MelSpectrogram.spectrogram.register_buffer("window", _window(window, self.window_length, periodic=True))
        high = highfreq or sample_rate / 2
        filters = melscale_fbanks(self.n_fft // 2 + 1, lowfreq, high, n_mels, sample_rate, None, "htk")
        self.MelSpectrogram.mel_scale.register_buffer("fb", filters)

    def frames(self, samples: Tensor) -> Tensor:
        """Valid frames of recordings of so many samples (B,)."""
        return -(-samples // self.hop)

    @torch.autocast("cuda", enabled=False)
    @torch.no_grad()
    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (B, D, T), zero beyond the valid frames, and those (B,), of sound (B, N), (B,) samples."""
        wave = wave.float()
        power = self.spectrum(wave, lengths, self.get_buffer("MelSpectrogram.spectrogram.window"), reflect=True)
        bands = (power.transpose(1, 2) @ self.get_buffer("MelSpectrogram.mel_scale.fb") + 1e-6).log()
        valid = self.frames(lengths)
        coefficients = (bands @ self.get_buffer("dct_mat")).transpose(1, 2)
        return coefficients.masked_fill(~frame_mask(valid, coefficients.shape[2])[:, None], 0.0), valid


class Preprocessor(nn.Module):
    """Features of a published configuration; ``featurizer`` is the name that its weights have.

    Args:
        config: the section ``preprocessor`` of a NeMo configuration.
        reflect: it was trained with NeMo before 2.5.0 (see :class:`LogMelFeatures`).

    Raises:
        InputError: of another kind, or an option that is not known or cannot be.
    """

    def __init__(self, config: Mapping[str, Any], reflect: bool = False) -> None:
        super().__init__()
        self.featurizer: LogMelFeatures | MFCCFeatures = features_of(config, reflect)

    @typecheck(
        {"wave": NeuralType(("B", "T"), AudioSignal()), "lengths": NeuralType(("B",), LengthsType())},
        {"features": NeuralType(("B", "D", "T"), SpectrogramType()), "frames": NeuralType(("B",), LengthsType())},
        positional=True,
    )
    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D, T) and their valid frames (B,) of sound (B, N), (B,) samples per row."""
        found: tuple[Tensor, Tensor] = self.featurizer(wave, lengths)
        return found


def features_of(config: Mapping[str, Any], reflect: bool = False) -> LogMelFeatures | MFCCFeatures:
    """The features of a NeMo configuration; see :class:`Preprocessor`."""
    options: dict[str, Any] = {**config, **(config.get("params") or {})}  # before 1.0 there was a level more
    options.pop("params", None)
    kind = str(options.pop("_target_", options.pop("cls", LOG_MEL))).rpartition(".")[2]
    if kind not in (LOG_MEL, MFCC):
        raise InputError(f"preprocessor {kind}: expected {LOG_MEL} or {MFCC}")
    rate = options.get("sample_rate", 16000)
    for seconds, samples in (("window_size", "n_window_size"), ("window_stride", "n_window_stride")):
        if options.pop(samples, None):
            options[seconds] = config[samples] / rate
    fixed: dict[str, Any] = {
        "frame_splicing": 1,
        "exact_pad": False,
        "stft_exact_pad": False,
        "pad_value": 0,
        "dct_type": 2,
    }
    if kind == MFCC:
        fixed["norm"] = "ortho"
    for name, only in fixed.items():
        if (found := options.pop(name, only)) != only:
            raise InputError(f"preprocessor: {name} {found} is not supported, {only} is expected")
    options = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
    if kind == LOG_MEL:
        options["reflect"] = reflect
    try:
        return (LogMelFeatures if kind == LOG_MEL else MFCCFeatures)(**options)
    except TypeError as error:
        reason = one_line(error)
        raise InputError(f"preprocessor: {(reason.partition('() ')[2] or reason)[:200]}") from None


def _window(name: str, length: int, periodic: bool) -> Tensor:
    if name not in _WINDOWS:
        raise InputError(f"preprocessor: window {name}; expected one of {', '.join(_WINDOWS)}")
    return _WINDOWS[name](length, periodic=periodic)


def _slaney_filters(features: SpeechFeatures, low: float, high: float | None, norm: str | None) -> Tensor:
    """Triangular filters (n_fft // 2 + 1, bands) on Slaney's mel scale, linear to 1 kHz and logarithmic above.

    In double precision, unlike torchaudio's: the published filters are rounded once.
    """
    step, octave = 200 / 3, math.log(6.4) / 27

    def mel(hertz: float) -> float:
        return hertz / step if hertz < 1000 else 1000 / step + math.log(hertz / 1000) / octave

    points = torch.linspace(mel(low), mel(high or features.sample_rate / 2), features.dim + 2, dtype=torch.float64)
    edges = torch.where(points < 1000 / step, points * step, 1000 * ((points - 1000 / step) * octave).exp())
    bins = torch.linspace(0, features.sample_rate / 2, features.n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = rising.minimum(falling).clamp(min=0)
    return (filters * 2 / (edges[2:] - edges[:-2]) if norm == "slaney" else filters).float()


def _reflect_ends(wave: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Each row (N,) with ``width`` samples before it and behind its own end that mirror it; zeros follow."""
    last = (lengths - 1).clamp(min=0)[:, None]
    place = torch.arange(-width, wave.shape[1] + width, device=wave.device)
    mirrored = last - (last - place.abs()).abs()
    inside = mirrored.clamp(min=0).minimum(last)  # a row shorter than the width cannot be mirrored whole
    return wave.gather(1, inside).masked_fill(place > last + width, 0.0)


def _normalized(bands: Tensor, mask: Tensor, how: str | None) -> Tensor:
    """Bands (B, D, T) less their mean, over their standard deviation (by n - 1), both of valid frames (B, 1, T)."""
    if how not in ("per_feature", "all_features"):
        return bands
    axes = (2,) if how == "per_feature" else (1, 2)
    count = mask.sum(2, keepdim=True) * (1 if how == "per_feature" else bands.shape[1])
    mean = bands.masked_fill(~mask, 0.0).sum(axes, keepdim=True) / count.clamp(min=1)
    squares = (bands - mean).masked_fill(~mask, 0.0).square().sum(axes, keepdim=True)
    return (bands - mean) / ((squares / (count - 1).clamp(min=1)).sqrt() + _EPSILON)
