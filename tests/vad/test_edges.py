"""Edges of speech by its level: where it is known, they are found; where the level says nothing, they are shifted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.vad.edges import EdgeOptions, refine_edges
from speechdlm_ext.vad.levels import ChannelLevels

TRUTH = [(1.0, 2.0), (2.3, 3.11), (5.0, 5.4)]
NOISE, LOUD = -70.0, -25.0  # so far apart that the noise hides nothing of speech


def channel(level: np.ndarray) -> ChannelLevels:
    """All of the sound in one band."""
    return ChannelLevels(level, 10 ** (level[None] / 10))


def levels_of(speech: list[tuple[float, float]], noise: float = NOISE, loud: float = LOUD) -> ChannelLevels:
    level = np.full(800, noise) + np.random.default_rng(0).normal(0, 0.5, 800)
    for start, end in speech:
        level[round(start * 100) : round(end * 100)] = loud
    return channel(level)


def approx(pairs: list[tuple[float, float]], within: float = 1e-9) -> list[object]:
    return [pytest.approx(pair, abs=within) for pair in pairs]


def test_rough_edges_become_the_true_ones() -> None:
    rough = [(0.9, 2.1), (2.2, 3.2), (5.1, 5.3)]
    assert refine_edges(rough, levels_of(TRUTH)) == approx(TRUTH)
    # A weak beginning that the network heard 400 ms late.
    assert refine_edges([(1.4, 2.0), (2.5, 3.1)], levels_of(TRUTH[:2])) == approx(TRUTH[:2])
    # Beyond reach, what the network says stays, but for the shift.
    (start, end), *_ = refine_edges([(0.5, 2.6)], levels_of([(1.0, 2.0)]))
    assert start == pytest.approx(0.49) and end == pytest.approx(2.54)


def test_levels_that_say_nothing() -> None:
    options = EdgeOptions()
    shifted = [(a + options.start_shift, b + options.end_shift) for a, b in TRUTH]
    assert refine_edges(TRUTH, levels_of(TRUTH, loud=NOISE + 8)) == approx(shifted)  # too near
    assert refine_edges([(0.0, 8.0)], levels_of(TRUTH)) == approx([(0.0, 7.94)])  # no noise to be known
    assert refine_edges([], levels_of(TRUTH)) == [] and refine_edges(TRUTH, channel(np.zeros(0)))


def test_what_noise_hides_is_added() -> None:
    """With noise 20 dB below loud speech, 17 dB + 3 dB of its rise and fall are not heard: they take their time."""
    options = EdgeOptions()
    (start, end), *_ = refine_edges([(0.9, 2.1)], levels_of([(1.0, 2.0)], noise=LOUD - 20))
    hidden = options.below_loud - (20 - options.above_noise)
    assert start == pytest.approx(1.0 - hidden**2 * options.swell, abs=0.006)  # half a frame, where noise is loud
    assert end == pytest.approx(2.0 + hidden**2 * options.fade, abs=0.006)


def test_weak_ends_and_neighbours() -> None:
    levels = levels_of([(1.0, 2.0)]).level
    levels[200:210] = LOUD - 30  # still speech
    levels[210:230] = LOUD - 38.1  # that is not, though over the noise
    assert refine_edges([(1.0, 2.0)], channel(levels)) == approx([(1.0, 2.1)])
    # Sound all the way between two stretches is shared between them.
    one, other = refine_edges([(1.0, 2.0), (2.1, 3.0)], levels_of([(1.0, 3.0)]))
    assert one[1] == pytest.approx(2.05, abs=0.006) and other[0] == pytest.approx(2.05, abs=0.006)


def test_sibilants_are_speech_however_weak_they_are_below_3700_hz() -> None:
    low = levels_of([(1.0, 2.0)], noise=-90.0).level
    high = np.full(800, -90.0)
    high[200:212] = LOUD - 30
    levels = ChannelLevels(low, 10 ** (np.stack([low, high]) / 10))
    assert refine_edges([(1.0, 2.1)], levels) == approx([(1.0, 2.12)])
    assert refine_edges([(1.0, 2.1)], channel(low)) == approx([(1.0, 2.0)])


def test_silences_within_count_where_the_network_doubts() -> None:
    speech = [(1.0, 2.0), (2.2, 3.0), (3.1, 4.0)]  # the last two are less than 150 ms apart
    sure, doubts = np.full(800, 0.9), np.full(800, 0.9)
    doubts[205:215] = 0.4
    assert refine_edges([(1.0, 4.0)], levels_of(speech), chances=doubts) == approx([(1.0, 2.0), (2.2, 4.0)])
    assert refine_edges([(1.0, 4.0)], levels_of(speech), chances=sure) == approx([(1.0, 4.0)])


def test_what_is_less_loud_is_heard_as_far_down() -> None:
    level = levels_of([(1.0, 2.0)], noise=-90).level
    level[500:540], level[540:550] = LOUD - 20, LOUD - 45  # 20 dB below the first, and its weak end
    assert refine_edges([(1.0, 2.0), (5.0, 5.4)], channel(level)) == approx([(1.0, 2.0), (5.0, 5.5)])


def test_what_leaks_in_from_another_channel_is_left_out() -> None:
    level = levels_of([(1.0, 2.0)]).level
    other = levels_of([(1.8, 4.0), (5.0, 5.4)])
    leaking = other.level - 30
    heard = channel(np.maximum(level, leaking))
    assert refine_edges([(1.0, 4.0), (5.0, 5.4)], heard, others=[other]) == approx([(1.0, 2.0)])
    alone = refine_edges([(1.0, 4.0), (5.0, 5.4)], heard)
    assert alone == approx([(1.0, 4.0), (5.0, 5.4)])  # without the other channel, nobody can know


times = st.lists(st.floats(0, 7.9), min_size=2, max_size=12, unique=True).map(sorted)


@settings(deadline=None, max_examples=60)
@given(times, st.integers(0, 9))
def test_stretches_stay_in_order_and_near(edges: list[float], seed: int) -> None:
    rough = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if b - a > 0.02]
    rng = np.random.default_rng(seed)
    found = refine_edges(rough, channel(rng.choice([NOISE, LOUD], 800)), chances=rng.random(800))
    reach = EdgeOptions().reach + 0.03  # that much may be hidden, and grids of 10 ms
    assert all(a < b for a, b in found)
    assert all(one[1] <= other[0] + 0.011 for one, other in zip(found, found[1:], strict=False))
    for start, end in found:
        assert any(a - reach <= start and end <= b + reach for a, b in rough)
