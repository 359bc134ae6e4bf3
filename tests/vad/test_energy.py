"""Speech by energy: bursts whose bounds are known, real calls, read speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.metrics.intervals import bridge_silences, join_intervals, widen_intervals
from speechdlm_ext.metrics.signal import short_time_power
from speechdlm_ext.vad.energy import Energy, frame_levels


def bursts(stretches: list[tuple[float, float]], seconds: float, rate: int, noise: float, level: float) -> np.ndarray:
    """Noise-like "speech" of ``level`` dB over a floor of ``noise`` dB re full scale."""
    rng = np.random.default_rng(0)
    wave = 10 ** (noise / 20) * rng.standard_normal(round(seconds * rate))
    for start, end in stretches:
        part = slice(round(start * rate), round(end * rate))
        wave[part] += 10 ** (level / 20) * rng.standard_normal(wave[part].shape)
    return wave


@pytest.mark.parametrize("rate", (8000, 16000, 44100))
@pytest.mark.parametrize(("noise", "level"), ((-70, -25), (-45, -15), (-62, -38)))
def test_boundaries_are_found(rate: int, noise: float, level: float) -> None:
    truth = [(0.5, 1.5), (2.0, 2.3), (3.0, 5.0)]
    found = Energy().detect(bursts(truth, 6, rate, noise, level), rate)[0]
    assert len(found) == 3
    assert np.allclose(found, truth, atol=0.03)


def test_levels() -> None:
    rate = 16000
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    levels = frame_levels(tone, rate)
    assert len(levels) == 100
    assert np.allclose(levels[10:-10], 10 * np.log10(0.125), atol=0.3)
    hum = 0.5 * np.sin(2 * np.pi * 25 * np.arange(rate) / rate)  # out of the band, DC likewise
    assert frame_levels(hum + 0.2, rate)[20:80].max() < -40


@pytest.mark.commands
@pytest.mark.parametrize("rate", (8000, 11025, 22050, 44100))
def test_frames_do_not_drift_at_rates_that_10_ms_do_not_divide(rate: int) -> None:
    wave = np.zeros(600 * rate)
    wave[-rate // 2 :] = 1.0
    power = short_time_power(wave, rate, 0.01)
    assert len(power) == 60000 and power[59949] < 0.1 and power[59951] > 0.9
    assert short_time_power(wave[-rate:], rate, 0.01, 0.03)[49] == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("wave", (np.zeros(16000), np.zeros(0), np.zeros(50), np.full(16000, 0.3)))
def test_nothing_to_hear(wave: np.ndarray) -> None:
    assert Energy().detect(wave, 16000)[0] == []


def test_noise_alone_is_no_speech() -> None:
    assert Energy().detect(bursts([], 10, 16000, -40, 0), 16000)[0] == []


def test_digital_silence_around_speech() -> None:
    wave = bursts([(1, 2)], 4, 16000, -150, -20)
    wave[: 16000 - 1] = 0
    wave[2 * 16000 :] = 0
    assert np.allclose(Energy().detect(wave, 16000)[0], [(1, 2)], atol=0.03)


def test_two_channels_of_a_real_call(data: Path) -> None:
    wave, rate = soundfile.read(data / "speech" / "calls" / "auto_repairs_40.ogg", frames=60 * 16000)
    shares = [sum(b - a for a, b in channel) / 60 for channel in Energy().detect(wave.T, rate)]
    assert all(0.1 < share < 0.8 for share in shares), shares


def test_read_speech_against_its_own_levels(data: Path) -> None:
    """Detected speech carries nearly all of the energy, and what is skipped is far below it."""
    for path in sorted((data / "speech" / "ljspeech").glob("*.flac"))[:6]:
        wave, rate = soundfile.read(path)
        inside = np.zeros(len(wave), bool)
        for start, end in Energy().detect(wave, rate)[0]:
            inside[round(start * rate) : round(end * rate)] = True
        power = (wave - wave.mean()) ** 2
        assert power[inside].sum() > 0.95 * power.sum()  # hissing sounds above 3.7 kHz may be missed
        assert 0.5 < inside.mean() < 0.99
        assert 10 * np.log10(np.median(power[inside]) / np.median(power[~inside])) > 15


stretches = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 5)).map(lambda p: (p[0], p[0] + p[1])), max_size=15)


@settings(deadline=None)
@given(stretches, st.floats(0, 2))
def test_joining_and_bridging(parts: list[tuple[float, float]], shortest: float) -> None:
    joined = join_intervals(parts)
    assert all(a < b for a, b in joined) and all(p[1] < q[0] for p, q in zip(joined, joined[1:], strict=False))
    points = np.linspace(0, 56, 557) + 0.0123
    before = np.array([any(a <= x < b for a, b in parts) for x in points])
    assert (before == np.array([any(a <= x < b for a, b in joined) for x in points])).all()
    bridged = bridge_silences(joined, shortest)
    assert all(q[0] - p[1] >= shortest - 1e-6 for p, q in zip(bridged, bridged[1:], strict=False))
    assert bridge_silences(bridged, shortest) == bridged
    wide = widen_intervals(bridged, shortest, 2 * shortest, 60.0)
    assert all(p[1] <= q[0] + 1e-3 for p, q in zip(wide, wide[1:], strict=False))
    for (a, b), (c, d) in zip(bridged, wide, strict=True):
        assert a - shortest - 1e-3 <= c <= a + 1e-3 and b - 1e-3 <= d <= b + 2 * shortest + 1e-3


def test_widening_shares_the_silence_and_stays_within() -> None:
    assert widen_intervals([(0.5, 1.0), (1.1, 2.0), (3.0, 3.9)], 0.2, 0.3, 4.0) == [
        (0.3, 1.05),
        (1.05, 2.3),
        (2.8, 4.0),
    ]
    assert widen_intervals([(0.1, 1.0)], 0.2, 0.0, 4.0) == [(0.0, 1.0)] and widen_intervals([], 1, 1, 4.0) == []
