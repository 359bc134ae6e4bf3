"""Figures of sound: made signals whose figures are known, faults that are seen, pieces that add up, a real call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.metrics.signal import SoundMeter, pool_sound
from speechdlm_ext.vad.energy import Energy

RATE = 16000


def measure(wave: np.ndarray, activity: list | None = None, rate: int = RATE) -> dict:
    meter = SoundMeter(rate, 1)
    meter.add(wave[None].astype(np.float32), [activity or []])
    (figures,) = meter.figures()
    json.dumps(figures, allow_nan=False)
    return figures


def noise(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    return 10 ** (level / 20) * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def test_level_peak_and_dc() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    figures = measure(tone)
    assert figures["level"] == pytest.approx(-9.03, abs=0.01) and figures["peak"] == pytest.approx(-6.02, abs=0.01)
    assert figures["clipped"] == 0 and figures["dc"] == pytest.approx(0, abs=1e-6)
    assert figures["bandwidth"] == pytest.approx(440, abs=150)
    assert measure(tone + 0.1)["dc"] == pytest.approx(0.1, abs=1e-5)


def test_clipping_and_silence() -> None:
    tone = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE)
    assert measure(np.clip(2 * tone, -1, 1))["clipped"] == pytest.approx(2 / 3, abs=0.01)
    single = 0.5 * tone
    single[5000] = 1.0  # one sample at full scale is a peak, not clipping
    assert measure(single)["clipped"] == 0
    half = noise(2, -30)
    half[RATE:] = 0
    assert measure(half)["silent"] == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("limit", (1500, 3400, 6000))
def test_bandwidth(limit: int) -> None:
    limited = sosfilt(butter(16, limit, fs=RATE, output="sos"), noise(5, -20))
    assert measure(limited)["bandwidth"] == pytest.approx(limit, rel=0.5) and measure(limited)["bandwidth"] > limit
    assert measure(noise(5, -20))["bandwidth"] > 7800


@pytest.mark.parametrize("snr", (0, 10, 30))
def test_signal_to_noise(snr: float) -> None:
    wave = noise(10, -50)
    wave[2 * RATE : 6 * RATE] += noise(4, -50 + snr, seed=1)
    assert measure(wave, [(2.0, 6.0)])["snr"] == pytest.approx(snr, abs=0.3)


def test_what_cannot_be_said() -> None:
    assert measure(np.zeros(RATE)) == {
        "level": None,
        "peak": None,
        "clipped": 0,
        "silent": 1,
        "bandwidth": None,
        "dc": 0,
        "snr": None,
        "reason": "the channel is digital silence",
    }
    assert measure(noise(1, -40))["reason"] == "no speech was found"
    assert measure(noise(1, -40), [(0, 1)])["reason"] == "there is nothing but speech"
    assert measure(np.zeros(0))["reason"] == "there is no sound"


def test_pieces_add_up(data: Path) -> None:
    wave, rate = read_audio(data / "speech" / "calls" / "google_two_channel.flac")
    samples = wave.numpy()
    activity = Energy().detect(samples, rate)
    whole, pieces = SoundMeter(rate, 2), SoundMeter(rate, 2)
    whole.add(samples, activity)
    cut = 3.0
    pieces.add(samples[:, : round(cut * rate)], [[(a, min(b, cut)) for a, b in c if a < cut] for c in activity])
    pieces.add(
        samples[:, round(cut * rate) :], [[(max(0, a - cut), b - cut) for a, b in c if b > cut] for c in activity]
    )
    for one, other in zip(whole.figures(), pieces.figures(), strict=True):
        assert one["snr"] > 15 and 2500 < one["bandwidth"] <= rate / 2 and -45 < one["level"] < -10
        for name in ("level", "peak", "silent", "bandwidth"):
            assert one[name] == pytest.approx(other[name], rel=0.02), name
    pooled = pool_sound([whole.figures(), pieces.figures()], [2.0, 1.0])
    assert pooled[0]["level"] == pytest.approx(whole.figures()[0]["level"])


def test_the_mean_of_levels_is_that_of_their_powers() -> None:
    """A second at -20 dB and three at -60 dB have a fourth of the first one's power, 6 dB less; not -50 dB."""
    loud, quiet = measure(noise(1, -20)), measure(noise(3, -60))
    pooled = pool_sound([[loud], [quiet]], [1.0, 3.0])[0]
    assert pooled["level"] == pytest.approx(-26.0, abs=0.2) and pooled["peak"] == loud["peak"]
