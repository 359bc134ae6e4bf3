"""Sound from the centroids of a log-mel codebook, without trained weights: inversion of a k-means codebook."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from speechdlm_ext.encoders.logmel import LogMelEncoder, active_level, mel_bands
from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.vocoders.base import check_units

# Level of the sound where the codebook does not say what its recordings had, and the highest, whatever they had:
# louder, peaks would reach full scale. In dB re full scale.
_USUAL_LEVEL, _HIGHEST_LEVEL = -26.0, -24.0
# Seconds of sound made at a time, and the overlap in which one piece fades into the next.
_PIECE_SECONDS, _FADE_SECONDS = 20.0, 0.1
# With 120 Hz for the first channel, silero took the sound for speech less often (docs/vocoders.md).
PITCHES = (150.0, 190.0)
# What is below the encoder's floor may be anything. As silence it is this share of the floor's power: with less, the
# noise that comes and goes around the floor would have more contrast than it had in the recording.
_SILENCE = 0.04

# Above this frequency voiced speech is mostly breath; the change takes about its width.
_BREATH_HZ, _BREATH_WIDTH_HZ = 4000.0, 600.0
# The pitch rises by up to this part above and falls below the voice's own, with how much of the surroundings is voiced.
_INTONATION, _PHRASE_SECONDS = 0.15, 0.4


class CodebookVocoder:
    """Units → log-mel centroids → spectral envelope every 5 ms → the envelope on a source of pulses and noise.

    Between the middles of frames the envelope goes in straight lines in dB, over time and over frequency, so that
    changes of units do not click. The source is voiced as far as the centroid looks voiced.
    Phases are the source's and those of the envelope as a minimum-phase filter: phases by Griffin and Lim (1984) cost
    several times the computing and are no more intelligible. Bands at the encoder's floor become noise 14 dB below it.

    Args:
        codebook: of ``logmel`` features.
        seed: of the noise; the same seed gives the same sound.
        pitches: of the speakers in Hz, one for each channel; the first follows after the last.

    Raises:
        InputError: the codebook is of another encoder, or a pitch is not one of a speaker.
    """

    hop = 80
    n_fft = 512

    def __init__(self, codebook: Codebook, seed: int = 1, pitches: Sequence[float] = PITCHES) -> None:
        if codebook.encoder != LogMelEncoder.name:
            raise InputError(
                f"a codebook of {codebook.encoder or 'unknown'} features: only logmel centroids can be made sound; "
                "take --vocoder hifigan"
            )
        encoder = codebook.build_encoder()
        assert isinstance(encoder, LogMelEncoder)
        if not pitches or not all(40 <= pitch <= 500 for pitch in pitches):
            raise InputError(f"pitches {', '.join(map(str, pitches)) or 'none'}: 40 to 500 Hz is expected")
        self.codebook = codebook
        self.frame_rate = codebook.frame_rate
        self.sample_rate = encoder.sample_rate
        self.samples_per_frame = encoder.hop
        self.seed = seed
        self.pitches = tuple(pitches)
        self._floor = 10 ** (encoder.floor_db / 10)
        level = min(float(codebook.extra.get("level", _USUAL_LEVEL)), _HIGHEST_LEVEL)
        self._gain = 10 ** ((level - self._usual_level()) / 20)

    predicts_durations = False

    @classmethod
    def build(cls, codebook: Codebook | None, device: str | None = None, **options: Any) -> CodebookVocoder:
        """The vocoder of a command's options; it computes on the CPU."""
        if codebook is None:
            raise InputError("--codebook is needed: that the units were made with")
        return cls(codebook, **options)

    @property
    def num_units(self) -> int:
        """The number of units K that it knows."""
        return self.codebook.num_units

    @property
    def codebook_fingerprint(self) -> str:
        """Of the codebook that the units must come from."""
        return self.codebook.fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """What the sound depends on beside the units."""
        return {
            "codebook": self.codebook.fingerprint,
            "seed": self.seed,
            "pitches": list(self.pitches),
            "iterations": 0,  # there was such an option
        }

    def predict_durations(self, units: torch.Tensor) -> torch.Tensor:
        """A codebook does not know how long its units last: always an InputError."""
        raise InputError("a codebook cannot predict durations: give them in unitA.durations, …")

    def decode(self, units: torch.Tensor) -> torch.Tensor:
        """Sound of a batch of conversations; a row does not depend on the others.

        Args:
            units: (B, T, C), 0 … K-1.

        Returns:
            Sound (B, C, N) with ``N = 320 T``, float32, at the codebook's level.

        Raises:
            InputError: a unit is beyond the codebook, or there are none.
        """
        check_units(units, self.num_units)
        batch, length, channels = units.shape
        sound = torch.zeros(batch, channels, length * self.samples_per_frame)
        for item, made in zip(units, sound, strict=True):
            for channel in range(channels):
                self._decode(item[:, channel], channel, made[channel])
        return sound

    def streaming(self, channel: int = 0) -> PieceStream:
        """Sound of one channel's units as they come."""
        return PieceStream(self, channel)

    def _decode(self, units: torch.Tensor, channel: int, sound: torch.Tensor) -> None:
        """Sound of one channel (T,) into ``sound`` (N,), piece by piece: memory for spectra does not grow with T."""
        stream, done = self.streaming(channel), 0
        for piece in units.split(int(_PIECE_SECONDS * self.frame_rate)):
            made = stream.push(piece)
            sound[done : done + len(made)] = made
            done += len(made)
        sound[done:] = stream.finish()

    def _decode_piece(
        self, units: torch.Tensor, channel: int, noise: torch.Tensor, phase: float, overlap: int
    ) -> tuple[torch.Tensor, float]:
        """Sound (N,) of units (T,) with this noise (N,), and its pulses' phase ``overlap`` samples before the end.

        ``phase`` is that at the beginning, in periods.
        """
        features = self._interpolate(self.codebook.centroids[units])
        length = len(units) * self.samples_per_frame
        voiced = voicing(features, *self._low_and_high)
        pitch = pitch_contour(voiced, self.pitches[channel % len(self.pitches)], self.sample_rate / self.hop)
        pitch = pitch.repeat_interleave(self.hop)[self.hop // 2 :][:length]
        later = (phase + float(pitch[: max(0, length - overlap)].double().sum()) / self.sample_rate) % 1
        share = harmonic_share(voiced, torch.linspace(0, self.sample_rate / 2, self.n_fft // 2 + 1))
        source = share.sqrt() * self._spectrum(pulses(pitch, self.sample_rate, phase))
        source += (1 - share).sqrt() * self._spectrum(noise)
        magnitudes = self._magnitudes(features)
        spectrum = source * minimum_phase(magnitudes).T
        return torch.istft(spectrum, self.n_fft, self.hop, window=self._window, length=length), later

    def _spectrum(self, wave: torch.Tensor) -> torch.Tensor:
        return torch.stft(wave, self.n_fft, self.hop, window=self._window, pad_mode="constant", return_complex=True)

    def _interpolate(self, features: torch.Tensor) -> torch.Tensor:
        """Features (4 T + 1, D) at samples 0, 80, 160, …, from those of frames (T, D)."""
        steps = self.samples_per_frame // self.hop
        count = len(features)
        # The middle of frame t is at sample 320 t + 160.
        place = (torch.arange(count * steps + 1) / steps - 0.5).clamp(0, count - 1)
        before = place.floor().long()
        after = (before + 1).clamp_max(count - 1)
        return torch.lerp(features[before], features[after], (place - before)[:, None])

    def _magnitudes(self, features: torch.Tensor, gain: float | None = None) -> torch.Tensor:
        """Magnitudes (n, n_fft // 2 + 1) of the envelope, from features (n, D) in dB."""
        power = (10 ** (features / 10) - self._floor).clamp_min(_SILENCE * self._floor)
        # Bands are means of power over bins; a bin is between the middles of two of them, on a line in dB.
        magnitudes = torch.exp(0.5 * power.log() @ self._band_weights.T) * (self._band_weights.sum(dim=1) > 0)
        return magnitudes * (self._gain if gain is None else gain)

    def _usual_level(self) -> float:
        """The active level of units as frequent as in the training, at a gain of 1, in dB.

        Not 0 dB: centroids are means of dB, which lie below the dB of the mean.
        """
        power = self._magnitudes(self.codebook.centroids, gain=1.0).square().mean(dim=1)
        return active_level(power.repeat_interleave(torch.tensor(self.codebook.extra.get("counts", 1))))

    @cached_property
    def _band_weights(self) -> torch.Tensor:
        bands = mel_bands(self.codebook.dim, self.n_fft, self.sample_rate)
        bands = bands / bands.amax(dim=0).clamp_min(1e-9)
        return bands / bands.sum(dim=1, keepdim=True).clamp_min(1e-9)

    @cached_property
    def _low_and_high(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which bands tell voiced from unvoiced: those from 80 to 1000 Hz, those above 2500 Hz."""
        n_fft = 4096
        centres = mel_bands(self.codebook.dim, n_fft, self.sample_rate).argmax(dim=0) * (self.sample_rate / n_fft)
        return (centres > 80) & (centres < 1000), centres > 2500

    @cached_property
    def _window(self) -> torch.Tensor:
        return torch.hann_window(self.n_fft)


class PieceStream:
    """Sound of one channel in pieces that fade into one another; pulses and noise go on from piece to piece.

    Args:
        vocoder: makes the pieces.
        channel: whose pitch and noise they have.
    """

    def __init__(self, vocoder: CodebookVocoder, channel: int) -> None:
        self._vocoder, self._channel = vocoder, channel
        self._fade = int(_FADE_SECONDS * vocoder.frame_rate)
        self._units = torch.zeros(0, dtype=torch.long)  # the last of the piece before, which the next begins with
        self._noise, self._pending = torch.zeros(0), torch.zeros(0)
        self._phase, self._start = 0.0, 0

    def push(self, units: torch.Tensor) -> torch.Tensor:
        """The units (T,) that follow, to the sound (N,) that is final: all but the last 0.1 s."""
        vocoder, held = self._vocoder, self._fade * self._vocoder.samples_per_frame
        # Every channel has noise of its own, the same whatever batch it is in, and the same where pieces overlap.
        seed = (vocoder.seed * 1_000_003 + self._channel) * 1_000_003 + self._start
        fresh = torch.randn(len(units) * vocoder.samples_per_frame, generator=torch.Generator().manual_seed(seed))
        noise, window = torch.cat((self._noise, fresh)), torch.cat((self._units, units))
        piece, self._phase = vocoder._decode_piece(window, self._channel, noise, self._phase, held)
        overlap = len(self._pending)
        if overlap:
            ramp = torch.linspace(0, 1, overlap)
            piece[:overlap] *= ramp
            piece[:overlap] += self._pending * ramp.flip(0)
        self._units, self._noise = window[-self._fade :], noise[-held:]
        self._start += len(units)
        final = max(0, len(piece) - held)
        self._pending = piece[final:]
        return piece[:final]

    def finish(self) -> torch.Tensor:
        """The rest (N,)."""
        return self._pending


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
