"""Edges of speech by its level: where it is known, they are found; where the level says nothing, they are shifted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.metrics.edges import EdgeOptions, refine_edges

TRUTH = [(1.0, 2.0), (2.3, 3.11), (5.0, 5.4)]


def levels_of(speech: list[tuple[float, float]], noise: float = -60.0, loud: float = -25.0) -> np.ndarray:
    levels = np.full(800, noise) + np.random.default_rng(0).normal(0, 1, 800)
    for start, end in speech:
        levels[round(start * 100) : round(end * 100)] = loud
    return levels


def test_rough_edges_become_the_true_ones() -> None:
    rough = [(0.9, 2.1), (2.2, 3.2), (5.1, 5.3)]
    found = refine_edges(rough, levels_of(TRUTH))
    assert found == [pytest.approx(pair, abs=1e-9) for pair in TRUTH]
    # Beyond reach, what the network says stays, but for the shift.
    (start, end), *_ = refine_edges([(0.5, 2.6)], levels_of([(1.0, 2.0)]))
    assert start == pytest.approx(0.49) and end == pytest.approx(2.54)


def test_levels_that_say_nothing() -> None:
    options = EdgeOptions()
    shifted = [(a + options.start_shift, b + options.end_shift) for a, b in TRUTH]
    assert refine_edges(TRUTH, levels_of(TRUTH, loud=-50.0)) == [pytest.approx(pair) for pair in shifted]  # too near
    assert refine_edges([(0.0, 8.0)], levels_of(TRUTH)) == [(0.0, pytest.approx(7.94))]  # no noise to be known
    assert refine_edges([], levels_of(TRUTH)) == [] and refine_edges(TRUTH, np.zeros(0))


def test_weak_ends_and_neighbours() -> None:
    levels = levels_of([(1.0, 2.0)])
    levels[200:210] = -53.0  # 28 dB below: still speech, and 7 dB over the noise
    levels[210:230] = -58.0  # that is not
    assert refine_edges([(1.0, 2.0)], levels)[0] == (pytest.approx(1.0), pytest.approx(2.1))
    # Sound all the way between two stretches is shared between them.
    one, other = refine_edges([(1.0, 2.0), (2.1, 3.0)], levels_of([(1.0, 3.0)]))
    assert one[1] == pytest.approx(2.05, abs=0.006) and other[0] == pytest.approx(2.05, abs=0.006)


times = st.lists(st.floats(0, 7.9), min_size=2, max_size=12, unique=True).map(sorted)


@settings(deadline=None, max_examples=60)
@given(times, st.integers(0, 9))
def test_stretches_stay_in_order_and_near(edges: list[float], seed: int) -> None:
    rough = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if b - a > 0.02]
    levels = np.random.default_rng(seed).choice([-60.0, -25.0], 800)
    found = refine_edges(rough, levels)
    assert all(a < b for a, b in found) and len(found) <= len(rough)
    assert all(one[1] <= other[0] + 0.011 for one, other in zip(found, found[1:], strict=False))
    for start, end in found:
        assert any(abs(start - a) <= 0.211 and abs(end - b) <= 0.211 for a, b in rough)
