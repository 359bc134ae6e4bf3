"""Sound from the centroids of a log-mel codebook, without trained weights: inversion of a k-means codebook."""

from __future__ import annotations

from functools import cached_property

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.level import active_level
from speechdlm_ext.units.logmel import LogMelEncoder, mel_bands

# Level of the sound where the codebook does not say what its recordings had, in dB re full scale (ITU-T P.56 tests).
_USUAL_LEVEL = -26.0
# Seconds of sound made at a time, and the context on both sides in which its phases settle.
_CHUNK_SECONDS, _CONTEXT_SECONDS = 20.0, 0.4


class CodebookVocoder:
    """Units → log-mel centroids → power spectrum every 5 ms → phases by Griffin and Lim (1984; "fast", Perraudin 2013).

    Between the middles of frames the log spectrum goes in straight lines, over time and over frequency, which is
    what keeps the edges of units from clicking. Bands at the encoder's floor become silence.

    Args:
        codebook: of ``logmel`` features.
        seed: of the phases that the reconstruction starts from; the same seed gives the same sound.
        iterations: of the phase reconstruction.

    Raises:
        InputError: the codebook is of another encoder.
    """

    hop = 80
    n_fft = 512

    def __init__(self, codebook: Codebook, seed: int = 1, iterations: int = 32) -> None:
        encoder = codebook.build_encoder()
        if not isinstance(encoder, LogMelEncoder):
            raise InputError(
                f"this codebook is of {codebook.encoder} features; only logmel centroids can be turned into sound directly"
            )
        self.codebook = codebook
        self.frame_rate = codebook.frame_rate
        self.sample_rate = encoder.sample_rate
        self.samples_per_frame = encoder.hop
        self.seed = seed
        self.iterations = iterations
        self._floor_db = encoder.floor_db
        self._gain = 1.0
        self._gain = 10 ** ((float(codebook.extra.get("level", _USUAL_LEVEL)) - self._usual_level()) / 20)

    def decode(self, units: torch.Tensor) -> torch.Tensor:
        """Sound of a batch of conversations.

        Args:
            units: (B, T, C), 0 … K-1.

        Returns:
            Sound (B, C, N) with ``N = 320 T``, float32, at the codebook's level.

        Raises:
            InputError: a unit is beyond the codebook, or there are none.
        """
        if units.dim() != 3 or not units.numel():
            raise InputError(f"units (B, T, C) are wanted, found shape {tuple(units.shape)}")
        lowest, highest = int(units.min()), int(units.max())
        if lowest < 0 or highest >= self.codebook.units:
            raise InputError(
                f"unit {highest if lowest >= 0 else lowest} is not in the codebook, which has 0 to "
                f"{self.codebook.units - 1}: take the codebook that the units were made with"
            )
        batch, frames, channels = units.shape
        rows = units.transpose(1, 2).reshape(batch * channels, frames)
        return torch.stack([self._decode_row(row) for row in rows]).view(batch, channels, -1)

    def _decode_row(self, units: torch.Tensor) -> torch.Tensor:
        """Sound (N,) of one channel (T,), in chunks, so that memory does not grow with T, and a row never depends on others."""
        size = int(_CHUNK_SECONDS * self.frame_rate)
        context = int(_CONTEXT_SECONDS * self.frame_rate)
        total = len(units)
        sound = torch.zeros(total * self.samples_per_frame)
        # Chunks overlap by the context; across it one fades into the other.
        ramp = torch.linspace(0, 1, context * self.samples_per_frame)
        for start in range(0, total, size):
            first, last = max(0, start - context), min(total, start + size)
            piece = self._decode_chunk(units[first:last], start)
            if first < start:
                piece[: len(ramp)] *= ramp
                sound[first * self.samples_per_frame : start * self.samples_per_frame] *= 1 - ramp
            sound[first * self.samples_per_frame : last * self.samples_per_frame] += piece
        return sound

    def _decode_chunk(self, units: torch.Tensor, place: int) -> torch.Tensor:
        from torchaudio.functional import griffinlim

        magnitudes = self._magnitudes(self.codebook.centroids[units])
        with torch.random.fork_rng(devices=[]):
            # Chunks start from phases of their own, the same whatever the batch they are in.
            torch.manual_seed(self.seed * 1_000_003 + place)
            return griffinlim(
                magnitudes[None],
                self._window,
                self.n_fft,
                self.hop,
                self.n_fft,
                power=1.0,
                n_iter=self.iterations,
                momentum=0.99,
                length=len(units) * self.samples_per_frame,
                rand_init=True,
            )[0]

    def _magnitudes(self, features: torch.Tensor) -> torch.Tensor:
        """Magnitudes (n_fft // 2 + 1, 4 T + 1) of the spectra at samples 0, 80, 160, …, from features (T, D) in dB."""
        steps = self.samples_per_frame // self.hop
        count = len(features)
        # The middle of frame t is at sample 320 t + 160.
        place = (torch.arange(count * steps + 1) / steps - 0.5).clamp(0, count - 1)
        before = place.floor().long()
        after = (before + 1).clamp_max(count - 1)
        return self._to_magnitudes(torch.lerp(features[before], features[after], (place - before)[:, None])).T

    def _to_magnitudes(self, features: torch.Tensor) -> torch.Tensor:
        """Magnitudes (n, n_fft // 2 + 1) from features (n, D) in dB, at the level of the codebook."""
        floor = 10 ** (self._floor_db / 10)
        power = (10 ** (features / 10) - floor).clamp_min(0.01 * floor)
        # Bands are means of power over bins; a bin is between the middles of two of them, on a line in dB.
        magnitudes = torch.exp(0.5 * power.log() @ self._band_weights.T) * (self._band_weights.sum(dim=1) > 0)
        return magnitudes * (self._gain * self._window.square().sum().sqrt())

    @cached_property
    def _band_weights(self) -> torch.Tensor:
        bands = mel_bands(self.codebook.dim, self.n_fft, self.sample_rate)
        bands = bands / bands.amax(dim=0).clamp_min(1e-9)
        return bands / bands.sum(dim=1, keepdim=True).clamp_min(1e-9)

    @cached_property
    def _window(self) -> torch.Tensor:
        return torch.hann_window(self.n_fft)

    def _usual_level(self) -> float:
        """The active level of units as frequent as in the training, at a gain of 1, in dB.

        Not 0 dB: centroids are means of dB, which lie below the dB of the mean.
        """
        power = self._to_magnitudes(self.codebook.centroids).square().mean(dim=1) / self._window.square().sum()
        return active_level(power.repeat_interleave(torch.tensor(self.codebook.extra.get("counts", 1))))
