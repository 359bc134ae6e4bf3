"""Log-mel features, relative to the level of the speech in each channel: an encoder that needs no weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from speechdlm_ext.encoders.chunking import Growing
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import RESAMPLER

# ITU-T P.56 takes as active what lies within this margin (15.9 dB) below the active speech level.
_MARGIN = 10**-1.59
# A channel without any speech must not have its noise turned up to the level of speech.
LOWEST_LEVEL = -55.0


class LogMelEncoder:
    """Mel band powers in dB at 50 Hz, where 0 dB is the channel's active speech level.

    ``N`` samples at 16 kHz give ``T = N // 320`` frames. Frame ``t`` is centred on sample ``320 t + 160``; what lies
    before the first and after the last sample counts as zeros. Each value is ``10 log10(p / a + 10^(floor_db / 10))``
    with ``p`` the power density in the band and ``a`` the active level of the channel (``active_level``), so that two
    sides of a call with different gains give the same features, and digital silence is finite: ``floor_db``.

    Args:
        n_mels: number of bands D.
        floor_db: below the active level, in dB, what no longer makes a difference. At -30 dB the noise of a telephone
            line takes one unit of 100 where it took 11 at -50 dB, and speech made from them is as intelligible.
        window: length of the Hann window, in samples.
        level: what 0 dB is, in dB re full scale (a mean square of 1), for all channels; None: each channel's active
            level, which makes the features of an excerpt differ from those of the same frames in the whole recording.

    Raises:
        InputError: an option is out of its range.
    """

    name = "logmel"
    sample_rate = 16000
    hop = 320
    frame_rate = 50.0
    device = torch.device("cpu")

    def __init__(
        self, n_mels: int = 40, floor_db: float = -30.0, window: int = 400, level: float | None = None
    ) -> None:
        if not 8 <= n_mels <= 128:
            raise InputError(f"n_mels {n_mels}: 8 to 128 is expected")
        if not -100 <= floor_db <= -10:
            raise InputError(f"floor_db {floor_db}: -100 to -10 dB is expected")
        if not self.hop <= window <= 2 * self.hop:
            raise InputError(f"window {window}: {self.hop} to {2 * self.hop} samples are expected")
        if level is not None and not -100 <= level <= 0:
            raise InputError(f"level {level}: -100 to 0 dB re full scale is expected")
        self.dim = n_mels
        self.floor_db = floor_db
        self.window = window
        self.level = level

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build the same encoder again."""
        options = {"n_mels": self.dim, "floor_db": self.floor_db, "window": self.window}
        return options if self.level is None else {**options, "level": self.level}

    @property
    def identity(self) -> dict[str, Any]:
        """What the features depend on: the options, as there are no weights, and how sound gets its sample rate."""
        return {**self.options, "resampler": RESAMPLER}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> LogMelEncoder:
        """The encoder itself: mel bands are made on the CPU in float32, which costs less than reading the sound."""
        return self

    def frames(self, samples: int) -> int:
        """The number of frames of ``samples`` samples: ``samples // 320``."""
        return samples // self.hop

    def encode(self, wave: torch.Tensor, sample_rate: int) -> torch.Tensor:
        """Features of one channel.

        Args:
            wave: samples (N,), full scale at ±1.
            sample_rate: in Hz.

        Returns:
            Features (T, D) in dB, float32.

        Raises:
            InputError: the rate is not the encoder's, a sample is not a finite number, or there is no whole frame.
        """
        if sample_rate != self.sample_rate:
            raise InputError(
                f"sound at {sample_rate} Hz, the {self.name} encoder takes {self.sample_rate} Hz: resample it"
            )
        if wave.dim() != 1:
            raise InputError(f"one channel of sound (N,) is expected, found shape {tuple(wave.shape)}")
        return self.encode_blocks([wave[None]])[0]

    def encode_batch(self, waves: Sequence[torch.Tensor], batch_seconds: float | None = None) -> list[torch.Tensor]:
        """Features (T_i, D) of each of several channels (N_i,) at 16 kHz."""
        return [self.encode(wave.cpu(), self.sample_rate) for wave in waves]

    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The features (C, T, D) in one piece: the level, which they are relative to, is known at the end only."""
        yield self.encode_blocks(blocks)

    def encode_blocks(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features (C, T, D) of a stream of blocks (C, n) at 16 kHz, the same however the stream is cut.

        Raises:
            InputError: a sample is not a finite number, or there is no whole frame.
        """
        meter, powers = LevelMeter(self.hop), Growing()
        for part in self._band_powers(meter.watch(blocks)):
            powers.add(part)
        features = powers.joined()
        if not features.shape[1]:
            raise InputError(f"sound shorter than one frame of {1000 / self.frame_rate:.0f} ms")
        levels = meter.levels() if self.level is None else [self.level] * len(features)
        reference = torch.tensor(levels)[:, None, None]
        # In place: an hour has 29 MB of them for each channel.
        return features.mul_(10 ** (-reference / 10)).add_(10 ** (self.floor_db / 10)).log10_().mul_(10)

    def _band_powers(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Power in the bands (C, t, D) of the frames, as the samples for them come in."""
        # The window reaches beyond the frame it is centred on, into its neighbours and into zeros at both ends.
        reach = self.hop // 2
        held = None
        for block in blocks:
            if not bool(torch.isfinite(block).all()):
                raise InputError("sound has a sample that is not a finite number")
            held = torch.nn.functional.pad(block, (reach, 0)) if held is None else torch.cat((held, block), dim=1)
            ready = (held.shape[1] - 2 * reach) // self.hop
            if ready > 0:
                yield self._powers(held[:, : ready * self.hop + 2 * reach])
                held = held[:, ready * self.hop :].clone()  # a view would keep the whole block
        if held is not None and held.shape[1] - reach >= self.hop:
            yield self._powers(torch.nn.functional.pad(held, (0, 2 * reach + self.hop - held.shape[1])))

    def _powers(self, padded: torch.Tensor) -> torch.Tensor:
        span = padded.unfold(1, 2 * self.hop, self.hop).to(torch.float32)
        margin = self.hop - self.window // 2
        frames = span[:, :, margin : margin + self.window] * self._hann
        spectrum = torch.fft.rfft(frames, self._n_fft).abs().square() / self._hann.square().sum()
        return spectrum @ self._bands

    @cached_property
    def _hann(self) -> torch.Tensor:
        return torch.hann_window(self.window)

    @property
    def _n_fft(self) -> int:
        return 1024  # zero-padded, so that the lowest bands have a bin each

    @cached_property
    def _bands(self) -> torch.Tensor:
        return mel_bands(self.dim, self._n_fft, self.sample_rate)


def mel_bands(n_mels: int, n_fft: int, sample_rate: int) -> torch.Tensor:
    """Triangular mel filters (n_fft // 2 + 1, n_mels), each with weights that sum to 1: a band is a mean of bins."""
    from torchaudio.functional import melscale_fbanks

    bands = melscale_fbanks(n_fft // 2 + 1, 40.0, sample_rate / 2, n_mels, sample_rate, mel_scale="htk")
    return bands / bands.sum(dim=0, keepdim=True).clamp_min(1e-9)


class LevelMeter:
    """Measures the active level of each channel of a stream of blocks on its way through.

    Args:
        hop: samples of a frame.
    """

    def __init__(self, hop: int = 320) -> None:
        self.hop = hop
        self._powers = Growing()

    def watch(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Pass on blocks (C, n) as they are, however long each is."""
        rest = None
        for block in blocks:
            held = block if rest is None else torch.cat((rest, block), dim=1)
            whole = held.shape[1] // self.hop * self.hop
            if whole:
                self._powers.add(held[:, :whole].unflatten(1, (-1, self.hop)).square().mean(dim=2))
            rest = held[:, whole:].clone()  # a view would keep the whole block
            yield block

    def levels(self) -> list[float]:
        """The active level of each channel that has passed, in dB re full scale (``active_level``)."""
        powers = self._powers.joined()
        return [active_level(channel) for channel in powers] if powers.shape[1] else []


def active_level(power: torch.Tensor) -> float:
    """Level of the speech in a channel, after the idea of ITU-T P.56: the mean power of the active frames.

    Active are the frames not more than 15.9 dB below that mean itself; found by repetition from the mean of all.

    Args:
        power: mean square of each frame (T,), full scale at ±1.

    Returns:
        The level in dB re full scale (a mean square of 1); at least -55 dB, so that noise alone stays noise.
    """
    power = power.double()
    level = float(power.mean()) if len(power) else 0.0
    for _ in range(50):
        active = power[power >= level * _MARGIN]
        if level <= 0 or math.isclose(level, mean := float(active.mean()), rel_tol=1e-6):
            break
        level = mean
    return max(10 * math.log10(level), LOWEST_LEVEL) if level > 0 else LOWEST_LEVEL
