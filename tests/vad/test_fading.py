"""Speech that fades into noise: followed to where it is likely to end, not beyond, and what is hidden added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.vad.fading import FADE, SWELL, extend_into_noise

FRAMES = 600


def noisy(level_over_noise: np.ndarray, seed: int) -> np.ndarray:
    """What is measured, in dB over the noise, of speech of that level (T,) in noise, as a mean of 16 powers."""
    power = (1 + 10 ** (level_over_noise / 10)) * np.random.default_rng(seed).gamma(16, 1 / 16, len(level_over_noise))
    return 10 * np.log10(power)


def spoken(fade: float, seed: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Speech from 2 to 4 s, 20 dB over the noise, that then loses ``fade`` dB a frame; and what is clearly louder."""
    level = np.full(FRAMES, -np.inf)
    level[200:400] = 20.0
    falling = 20.0 - fade * np.arange(1, 100)
    level[400:499] = np.where(falling > -10, falling, -np.inf)
    over = noisy(level, seed)
    last = 400
    while over[last] > 3:
        last += 1
    return over, (2.0, last / 100)


def test_a_fading_end_is_followed() -> None:
    """3 dB a frame: to where noise and speech are 2 log 2 times the noise; what is clear ends before."""
    found, clear = [], []
    for seed in range(200):
        over, stretch = spoken(3.0, seed)
        ((start, end),) = extend_into_noise([stretch], over, 0.0)
        assert 1.9 <= start <= 2.0 and end >= stretch[1]
        found.append(end)
        clear.append(stretch[1])
    true = 4.0 + (20 - 10 * np.log10(2 * np.log(2) - 1)) / 3 / 100
    assert np.mean(found) == pytest.approx(true, abs=0.006)
    assert np.abs(np.array(found) - true).mean() < 0.7 * np.abs(np.array(clear) - true).mean()


def test_an_abrupt_end_stays_nearly() -> None:
    longer = []
    for seed in range(200):
        over, stretch = spoken(100.0, seed)
        ((_, end),) = extend_into_noise([stretch], over, 0.0)
        longer.append(end - stretch[1])
    assert 0 <= np.mean(longer) < 0.003


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(0, 10_000), st.floats(-2.0, 2.0))
def test_the_end_is_the_most_likely_of_all(seed: int, noise: float) -> None:
    """Every end up to ten frames away is tried; the zero of the levels does not matter."""
    over = noisy(np.full(FRAMES, -np.inf), seed)
    over[200:400] = 20.0
    over[400:410] += np.random.default_rng(seed).uniform(-1, 3, 10)
    ((_, end),) = extend_into_noise([(2.0, 4.0)], over + noise, 0.0)
    silence = np.concatenate([over[:190], over[410:]])
    ratio = 10 ** ((over[400:410] - np.median(silence)) / 10)
    totals = [sum(r / 2 - np.log(2) for r in ratio[:count]) for count in range(11)]
    assert end == pytest.approx(4.0 + max(range(11), key=totals.__getitem__) / 100)


def test_what_is_hidden_is_added_and_silences_are_shared() -> None:
    over = np.full(FRAMES, 0.0)
    over[100:200] = over[260:300] = 20.0
    stretches = [(1.0, 2.0), (2.6, 3.0)]
    (first, second), (third, fourth) = extend_into_noise(stretches, over, 20.0)
    assert first == pytest.approx(1.0 - 400 * SWELL, abs=6e-4) and fourth == pytest.approx(3.0 + 400 * FADE, abs=6e-4)
    # 0.6 s is no short silence.
    assert second == pytest.approx(2.0 + 400 * FADE, abs=6e-4) and third == pytest.approx(2.6 - 400 * SWELL, abs=6e-4)
    over[200:204], over[204:260] = 0.0, 20.0
    (_, second), (third, _) = extend_into_noise([(1.0, 2.0), (2.04, 3.0)], over, 60.0)
    assert second == third == pytest.approx(2.02)  # more would be hidden than there is


def test_short_silences_are_found_too_long() -> None:
    """Each side of one of 0.2 s moves by half as much as one of 0 s would; nothing moves where noise hides nothing."""
    over = np.full(FRAMES, 0.0)
    over[100:200] = over[220:300] = 20.0
    stretches = [(1.0, 2.0), (2.2, 3.0)]
    assert extend_into_noise(stretches, over, 0.0) == stretches
    (_, second), (third, _) = extend_into_noise(stretches, over, 15.0, swell=0.0, fade=0.0)
    assert second == pytest.approx(2.0 + 0.5 * 225 * 6e-5, abs=6e-4)
    assert third == pytest.approx(2.2 - 0.5 * 225 * 6e-5, abs=6e-4)


def test_where_there_is_no_speech_none_is_followed() -> None:
    over = np.full(FRAMES, 0.0)
    over[100:230] = 20.0
    over[200:230] = -np.inf  # loud, and another channel's
    assert extend_into_noise([(1.0, 2.0)], over, 0.0) == [(1.0, 2.0)]
    assert extend_into_noise([], over, 5.0) == []
    everything = extend_into_noise([(0.0, 6.0)], np.full(FRAMES, 20.0), 10.0)  # nothing is known of the noise
    assert everything == [(0.0, 6.0)]
