"""Sound from units: as long as it should be, at the right level and pitch, and with the pattern of the speech."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.encoders.logmel import active_level
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.units import Codebook
from speechdlm_ext.units.kmeans import train_codebook
from speechdlm_ext.vad.energy import Energy
from speechdlm_ext.vocoders import CodebookVocoder
from speechdlm_ext.vocoders.codebook_inversion import minimum_phase, pulses
from tests.helpers.features import sample_features


def level(wave: torch.Tensor) -> float:
    return active_level(wave[: len(wave) // 320 * 320].unflatten(0, (-1, 320)).square().mean(dim=1))


def spoken(wave: torch.Tensor, seconds: int) -> torch.Tensor:
    """Whether there is speech, every 10 ms."""
    times = torch.arange(seconds * 100) / 100
    stretches = Energy().detect(wave.numpy(), 16000)[0]
    return torch.stack([(times >= first) & (times < last) for first, last in stretches]).any(dim=0)


@pytest.fixture(scope="module")
def calls(data: Path) -> list[dict]:
    """Stereo calls: 60 s and 6.7 s."""
    folder = data / "speech" / "calls"
    return [
        {"id": Path(name).stem, "audio_filepath": str(folder / name), "duration": seconds, "channels": 2}
        for name, seconds in (("auto_repairs_40.ogg", 60.0), ("google_two_channel.flac", 6.665))
    ]


@pytest.fixture(scope="module")
def codebook(calls: list[dict]) -> Codebook:
    encoder = LogMelEncoder()
    features, levels = sample_features(calls, encoder, 20000, seed=1)
    return train_codebook(features, encoder, 100, 1, levels)


@pytest.mark.commands
@settings(deadline=None, max_examples=15)
@given(batch=st.integers(1, 3), frames=st.integers(1, 30), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_length_and_independence(codebook: Codebook, batch: int, frames: int, channels: int, seed: int) -> None:
    units = torch.randint(100, (batch, frames, channels), generator=torch.Generator().manual_seed(seed))
    vocoder = CodebookVocoder(codebook)
    sound = vocoder.decode(units)
    assert sound.shape == (batch, channels, frames * 320) and sound.dtype == torch.float32
    assert bool(torch.isfinite(sound).all())
    # A row alone, and its first channel alone, are what they are among others.
    torch.testing.assert_close(vocoder.decode(units[-1:])[0], sound[-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(vocoder.decode(units[:1, :, :1])[0, 0], sound[0, 0], rtol=0, atol=1e-6)


def test_seed(codebook: Codebook) -> None:
    units = torch.randint(100, (1, 100, 1), generator=torch.Generator().manual_seed(1))
    first = CodebookVocoder(codebook, seed=4).decode(units)
    torch.manual_seed(123)
    assert torch.equal(CodebookVocoder(codebook, seed=4).decode(units), first)
    assert not torch.equal(CodebookVocoder(codebook, seed=5).decode(units), first)


@pytest.mark.commands
def test_pattern_level_and_spectrum_of_a_call(calls: list[dict], codebook: Codebook) -> None:
    encoder = LogMelEncoder()
    wave, _ = read_audio(calls[0]["audio_filepath"], 16000)
    wave = wave[:, : 16000 * 60]
    units = torch.stack([codebook.quantize(channel) for channel in encoder.encode_blocks([wave])], dim=1)[None]
    sound = CodebookVocoder(codebook).decode(units)[0]
    assert sound.shape == (2, wave.shape[1] // 320 * 320)
    for place, (source, made) in enumerate(zip(wave, sound, strict=True)):
        active = [spoken(channel, 60) for channel in (source, made)]
        assert 0.1 < float(active[0].float().mean()) < 0.9
        assert float((active[0] == active[1]).float().mean()) >= 0.9
        assert level(made) == pytest.approx(min(codebook.extra["level"], -24), abs=3)
        assert float(made.abs().max()) < 1
        # Encoded again, it is near the centroids that it was made from: much nearer than they are to each other.
        features = encoder.encode(made, 16000)
        expected = codebook.centroids[units[0, :, place]]
        shuffled = expected[torch.randperm(len(expected), generator=torch.Generator().manual_seed(1))]
        error = (features - expected).square().mean().sqrt()
        assert error < 0.5 * (features - shuffled).square().mean().sqrt() and error < 6


def test_silence_is_silent_and_pieces_join(codebook: Codebook) -> None:
    vocoder = CodebookVocoder(codebook)
    assert float(vocoder.decode(torch.zeros(1, 200, 1, dtype=torch.long)).abs().max()) < 0.003
    # A steady vowel for 45 s, made in three pieces: where they meet, the level stays what it is.
    loudest = int(codebook.centroids.mean(dim=1).argmax())
    sound = vocoder.decode(torch.full((1, 2250, 1), loudest))[0, 0]
    power = 10 * torch.log10(sound.unflatten(0, (-1, 1600)).square().mean(dim=1))
    assert float((power - power.median()).abs()[3:-3].max()) < 0.8


@pytest.mark.parametrize("pitch", [90.0, 120.0, 233.0])
def test_pulses_have_their_pitch_and_power(pitch: float) -> None:
    train = pulses(torch.full((48000,), pitch), 16000)
    assert float(train.sum() / (16000 / pitch) ** 0.5) == pytest.approx(3 * pitch, abs=1.01)
    assert float(train[16:-16].square().mean()) == pytest.approx(0.67, abs=0.1)  # a pulse is shared by two samples
    spectrum = torch.fft.rfft(train).abs()
    # 3 s: harmonic k is at bin 3 k pitch.
    strongest = spectrum[30 : round(3 * pitch * 1.5)].argmax() + 30
    assert int(strongest) == pytest.approx(3 * pitch, abs=1)


def test_minimum_phase_against_a_known_filter() -> None:
    """A pole at 0.9: its impulse response is 0.9^n, minimum-phase by construction."""
    response = 0.9 ** torch.arange(512.0)
    spectrum = torch.fft.rfft(response.double())
    got = torch.fft.irfft(minimum_phase(spectrum.abs()[None])[0])
    torch.testing.assert_close(got, response.double(), rtol=0, atol=1e-6)


def test_wrong_units_and_codebooks(codebook: Codebook) -> None:
    vocoder = CodebookVocoder(codebook)
    with pytest.raises(InputError, match="unit 100 is not among those of the vocoder, which has 0 to 99"):
        vocoder.decode(torch.full((1, 5, 2), 100))
    with pytest.raises(InputError, match="unit -1"):
        vocoder.decode(torch.full((1, 5, 2), -1))
    for shape in ((5, 2), (1, 0, 2)):
        with pytest.raises(InputError, match=r"\(B, T, C\)"):
            vocoder.decode(torch.zeros(shape, dtype=torch.long))
    with pytest.raises(InputError, match="40 to 500 Hz"):
        CodebookVocoder(codebook, pitches=(5.0,))
    with pytest.raises(InputError, match="hubert features: only logmel centroids"):
        CodebookVocoder(Codebook(torch.zeros(3, 768), "hubert", {}, 50.0))
