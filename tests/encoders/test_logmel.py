"""Log-mel features against a reference in plain numpy, written from the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.encoders import LogMelEncoder, build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio


def reference_level(wave: np.ndarray) -> float:
    """Fixed point of: the mean power of frames not more than 15.9 dB below it, in dB."""
    power = np.array([np.mean(wave[s : s + 320].astype(float) ** 2) for s in range(0, len(wave) - 319, 320)])
    level = power.mean()
    while True:
        mean = power[power >= level / 10**1.59].mean()
        if abs(mean - level) < 1e-9 * level:
            return max(10 * np.log10(level), -55)
        level = mean


def reference_features(wave: np.ndarray, n_mels: int, floor_db: float, window: int) -> np.ndarray:
    """Frame by frame and band by band, by a discrete Fourier sum; (T, D)."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frequencies = np.linspace(0, 8000, 513)
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel(40), mel(8000), n_mels + 2) / 2595) - 1)
    level = reference_level(wave)
    padded = np.concatenate((np.zeros(1000), wave.astype(float), np.zeros(1000)))
    rows = []
    for frame in range(len(wave) // 320):
        middle = 1000 + 320 * frame + 160
        piece = padded[middle - window // 2 : middle + window // 2] * hann
        spectrum = np.abs(np.fft.rfft(piece, 1024)) ** 2 / np.sum(hann**2)
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            rise, fall = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
            weight = np.clip(np.minimum(rise, fall), 0, 1)
            row.append(10 * np.log10((weight @ spectrum) / weight.sum() / 10 ** (level / 10) + 10 ** (floor_db / 10)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("options", [{}, {"n_mels": 64, "floor_db": -70.0, "window": 640}])
def test_values_on_real_speech(data: Path, options: dict) -> None:
    wave, _ = read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)
    wave = wave[0, 16000:48123]
    encoder = LogMelEncoder(**options)
    got = encoder.encode(wave, 16000)
    settings = encoder.options
    want = reference_features(wave.numpy(), settings["n_mels"], settings["floor_db"], settings["window"])
    assert got.shape == want.shape == (100, encoder.dim)
    np.testing.assert_allclose(got.numpy(), want, atol=0.02)


@settings(deadline=None, max_examples=40)
@given(samples=st.integers(320, 5000), block=st.integers(100, 4000), seed=st.integers(0, 9))
def test_frame_count_and_blocks(samples: int, block: int, seed: int) -> None:
    encoder = LogMelEncoder()
    wave = torch.randn(2, samples, generator=torch.Generator().manual_seed(seed)) * 0.1
    features = encoder.encode_blocks([wave])
    assert features.shape == (2, samples // 320, 40) == (2, encoder.frames(samples), encoder.dim)
    torch.testing.assert_close(encoder.encode_blocks(wave.split(block, dim=1)), features, rtol=0, atol=1e-3)
    torch.testing.assert_close(encoder.encode(wave[1], 16000), features[1], rtol=0, atol=1e-3)


@settings(deadline=None, max_examples=10)
@given(gain_db=st.floats(-20, 0))
def test_gain_of_the_channel_does_not_matter(data: Path, gain_db: float) -> None:
    wave, _ = read_audio(data / "speech" / "calls" / "google_two_channel.flac", 16000)
    encoder = LogMelEncoder()
    want = encoder.encode_blocks([wave])
    torch.testing.assert_close(encoder.encode_blocks([wave * 10 ** (gain_db / 20)]), want, rtol=0, atol=0.02)


def test_silence_and_noise_stay_far_below_speech() -> None:
    encoder = LogMelEncoder()
    silence = encoder.encode(torch.zeros(16000), 16000)
    assert torch.equal(silence, torch.full((50, 40), -30.0))
    # Noise at -80 dB alone in a channel is not turned up to the level of speech.
    noise = 1e-4 * torch.randn(16000, generator=torch.Generator().manual_seed(1))
    assert float(encoder.encode(noise, 16000).mean()) < -20


def test_options_build_the_same_encoder() -> None:
    encoder = LogMelEncoder(n_mels=24, floor_db=-60.0)
    again = build_encoder(encoder.name, encoder.options)
    wave = torch.randn(3200, generator=torch.Generator().manual_seed(2))
    assert torch.equal(again.encode(wave, 16000), encoder.encode(wave, 16000))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("hubort", {}, "there is logmel"),
        ("logmel", {"mels": 3}, "logmel takes the options n_mels.*mels is not among them"),
        ("logmel", {"n_mels": 0}, "n_mels 0"),
        ("logmel", {"floor_db": 3}, "floor_db 3"),
        ("logmel", {"window": 100}, "window 100"),
    ],
)
def test_wrong_encoders(name: str, options: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        build_encoder(name, options)


def test_wrong_sound() -> None:
    encoder = LogMelEncoder()
    with pytest.raises(InputError, match="8000 Hz.*16000 Hz"):
        encoder.encode(torch.zeros(8000), 8000)
    with pytest.raises(InputError, match="shorter than one frame"):
        encoder.encode(torch.zeros(319), 16000)
    with pytest.raises(InputError, match="not a finite number"):
        encoder.encode(torch.full((400,), float("nan")), 16000)
    with pytest.raises(InputError, match="one channel"):
        encoder.encode(torch.zeros(2, 400), 16000)


def test_a_batch_and_a_stream_are_the_single_files() -> None:
    encoder = LogMelEncoder()
    waves = [torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.1 for size in (3200, 999, 16001)]
    for wave, features in zip(waves, encoder.to("cpu").encode_batch(waves), strict=True):
        assert torch.equal(features, encoder.encode(wave, 16000))
    stereo = torch.stack((waves[2], -waves[2].flip(0)))
    pieces = list(encoder.stream(stereo.split(1000, dim=1)))
    torch.testing.assert_close(torch.cat(pieces, dim=1), encoder.encode_blocks([stereo]), rtol=0, atol=1e-3)
    assert encoder.options == {"n_mels": 40, "floor_db": -30.0, "window": 400}
    assert encoder.identity == {**encoder.options, "resampler": "soxr-hq"}


def test_a_fixed_reference_makes_an_excerpt_like_the_whole(data: Path) -> None:
    wave = read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)[0][0]
    fixed, usual = LogMelEncoder(level=-26.0), LogMelEncoder()
    excerpt = wave[320 * 100 : 320 * 300]
    inner = slice(101, 299)
    torch.testing.assert_close(fixed.encode(excerpt, 16000)[1:-1], fixed.encode(wave, 16000)[inner], rtol=0, atol=1e-3)
    assert float((usual.encode(excerpt, 16000)[1:-1] - usual.encode(wave, 16000)[inner]).abs().max()) > 0.1
    assert fixed.options["level"] == -26.0 and "level" not in usual.options  # fingerprints of before stay
    with pytest.raises(InputError, match="level 3"):
        LogMelEncoder(level=3.0)
