"""Unigram and bigram bits per edge unit, against figures worked by hand and against the entropy of a known source."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.metrics import unit_baselines as module
from speechdlm_ext.metrics.unit_baselines import BEGIN, run_starts, unit_baselines


def test_runs() -> None:
    assert run_starts([7, 7, 5, 5, 5, 7]) == [7, 5, 7]
    assert run_starts([]) == []


def test_by_hand() -> None:
    # Train runs: 1 2 1 2. Contexts: <s>→1 once; 1→2 twice; 2→1 once.
    train, valid = [[1, 1, 2, 1, 2, 2]], [[1, 2, 2]]
    unigram, bigram = unit_baselines(train, valid, 2)
    assert unigram.edges == bigram.edges == 2
    assert unigram.bits == pytest.approx(1.0)  # both units half of the time, whatever the smoothing
    # After 1 comes 2 with certainty (the others are only 2): 0 bits. At the start, with d = 0.25: weight 0.2 on 0.5.
    assert bigram.weights["d"] == 0.25
    assert bigram.bits == pytest.approx(-math.log2(0.2 * 0.5 + 0.8 * 1.0) / 2, abs=1e-4)


def test_a_known_source() -> None:
    """A Markov chain without repetitions: the bigram comes near its entropy rate, the unigram to that of its units."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(12, 0.3), size=12) * (1 - np.eye(12))
    table /= table.sum(1, keepdims=True)
    state, chain = 0, []
    for _ in range(60000):
        state = int(rng.choice(12, p=table[state]))
        chain.append(state)
    unigram, bigram = unit_baselines([chain[:50000]], [chain[50000:]], 12)
    share = np.bincount(chain, minlength=12) / len(chain)
    safe = np.where(table > 0, table, 1)
    rate = -(share[:, None] * table * np.log2(safe)).sum()
    assert unigram.bits == pytest.approx(-(share * np.log2(share)).sum(), abs=0.05)
    assert bigram.bits == pytest.approx(rate, abs=0.05)
    assert bigram.bits < unigram.bits


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=30), min_size=1, max_size=4))
def test_probabilities_add_up(train: list[list[int]]) -> None:
    from collections import Counter

    runs = [run_starts(s) for s in train]
    counts = Counter(u for r in runs for u in r)
    pairs = Counter(p for r in runs for p in zip([BEGIN, *r], r, strict=False))
    for context in (BEGIN, 0, 1, 2, 3, 4):
        followers = [u for u in range(5) if u != context]
        chances = [2 ** -module._bigram_bits(Counter({(context, u): 1}), counts, pairs, 5, 0.1, 1.5) for u in followers]
        assert sum(chances) == pytest.approx(1.0, abs=1e-6)
    single = [2 ** -module._unigram_bits(Counter({(BEGIN, u): 1}), counts, 5, 0.1) for u in range(5)]
    assert sum(single) == pytest.approx(1.0)


def test_units_never_seen_in_training_cost_but_do_not_break() -> None:
    unigram, bigram = unit_baselines([["1", "2"]], [["3", "4"]], 4)
    assert math.isfinite(unigram.bits) and math.isfinite(bigram.bits)
    with pytest.raises(ValueError, match="baselines need"):
        unit_baselines([[]], [["1"]], 2)
