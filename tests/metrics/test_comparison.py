"""Corpora side by side: distances worked by hand, real against real nearer than others, correlation over prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import pearsonr

from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.comparison import compare, compare_halves, wasserstein
from speechdlm_ext.metrics.correlation import correlate
from speechdlm_ext.metrics.events import KINDS, Events
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.synthetic.dialogue import TurnTakingPriors

Talk = tuple[list[list[tuple[float, float]]], float]
OPTIONS = BootstrapOptions(resamples=200)


def alternate(rng: np.random.Generator, cascade: bool = False, turn: float = 2.0, seconds: float = 120.0) -> Talk:
    """Two who take turns as TurnTakingPriors says; a cascade waits for silence before it answers."""
    timing, channels, time, who = TurnTakingPriors(), ([], []), 0.5, 0
    while time < seconds:
        length = 0.3 + rng.exponential(turn)
        channels[who].append((time, time + length))
        offset = timing.sample_offset(rng)
        time += length + (0.7 + abs(offset) if cascade else max(offset, 0.1 - length))
        who = 1 - who
    return list(channels), seconds


def corpus(seed: int, count: int = 30, **options: object) -> Events:
    rng = np.random.default_rng(seed)
    return find_events_of_many([alternate(rng, **options) for _ in range(count)])  # type: ignore[arg-type]


def test_differences_by_hand() -> None:
    mine = find_events_of_many([([[(0, 2), (3, 4)], [(4.5, 6)]], 60.0)])
    theirs = find_events_of_many([([[(0, 2)], [(2.2, 4)]], 30.0), ([[(1, 4)], []], 30.0)])
    distance = compare(mine, theirs)
    assert distance["ipu"]["per_minute"] == 0 and distance["ipu"]["mean"] == pytest.approx(1.5 - 6.8 / 3)
    assert distance["gap"] == {
        "per_minute": 0,
        "seconds_per_minute": pytest.approx(0.3),
        "mean": pytest.approx(0.3),
        "median": pytest.approx(0.3),
        "wasserstein": pytest.approx(0.3),
        "reason": None,
    }
    assert distance["pause"]["per_minute"] == 1 and distance["pause"]["wasserstein"] is None
    assert distance["pause"]["reason"] == "reference: there is none"
    assert distance["speech_share"] == [pytest.approx((3 - 5) / 60), pytest.approx((1.5 - 1.8) / 60)]
    assert wasserstein(np.array([0.0, 1]), np.array([5.0, 6])) == 5


def test_real_against_real_is_nearer_and_a_cascade_is_told_apart() -> None:
    real, other, cascade, slow = corpus(1), corpus(2), corpus(3, cascade=True), corpus(4, turn=5.0)
    same, apart, longer = (compare(events, real, OPTIONS) for events in (other, cascade, slow))
    yardstick = compare_halves(real)
    assert yardstick is not None
    for name in ("overlap", "gap", "floor_transfer_offset"):
        low, high = same[name]["interval"]["per_minute"]
        assert low <= 0 <= high  # no difference between two draws of one source …
    assert abs(same["overlap"]["per_minute"]) < -apart["overlap"]["per_minute"]
    assert apart["overlap"]["interval"]["per_minute"][1] < 0  # … and fewer overlaps in a cascade
    assert apart["overlap"]["wasserstein"] is None and "generated: there is none" in apart["overlap"]["reason"]
    far = apart["floor_transfer_offset"]["wasserstein"]
    assert far > 5 * yardstick["floor_transfer_offset"]["wasserstein"] > 0
    assert same["floor_transfer_offset"]["wasserstein"] < 2 * yardstick["floor_transfer_offset"]["wasserstein"]
    low, high = apart["floor_transfer_offset"]["interval"]["wasserstein"]
    assert low < far < high
    assert longer["ipu"]["interval"]["mean"][0] > 1 and longer["ipu"]["wasserstein"] == pytest.approx(3, abs=1)
    assert compare(other, real, OPTIONS) == same  # seeded


def test_resampled_distances_are_distances() -> None:
    """Where every conversation is the same, each resample is the corpus: the interval is the distance, to its bins."""
    rng = np.random.default_rng(0)
    one, other = alternate(rng), alternate(rng, turn=4.0)
    distance = compare(find_events_of_many([one] * 3), find_events_of_many([other] * 4), OPTIONS)
    for name in ("ipu", "gap", "floor_transfer_offset"):
        low, high = distance[name]["interval"]["wasserstein"]
        assert low == pytest.approx(high) and distance[name]["wasserstein"] == pytest.approx(low, abs=0.011)
        for key in ("per_minute", "mean"):
            assert distance[name]["interval"][key] == pytest.approx([distance[name][key]] * 2)


def test_nothing_to_compare() -> None:
    silent = find_events_of_many([([[], []], 60.0)] * 3)
    for distance in (compare(silent, corpus(1, 3), OPTIONS), compare(find_events_of_many([]), corpus(1, 3), OPTIONS)):
        json.dumps(distance, allow_nan=False)
        assert all(distance[name]["per_minute"] is None and distance[name]["reason"] for name in KINDS.values())
        assert all(distance[name]["interval"] is None for name in KINDS.values())
    assert compare_halves(corpus(1, 1)) is None
    mixed = [([[(0, 2)], [(3, 5)]], 10.0), *[([[(0, 4)]], 10.0)] * 4]  # whichever half has the second channel
    assert compare_halves(find_events_of_many(mixed))["speech_share"] is None
    halves = compare_halves(silent)
    assert halves is not None and halves["ipu"]["per_minute"] is None and halves["ipu"]["reason"]
    assert compare(corpus(1, 1), corpus(2, 5), OPTIONS)["ipu"]["interval"] is None  # one conversation has no scatter


@pytest.mark.commands
def test_correlation_over_prompts() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.uniform(1, 4, 40)
    real = find_events_of_many([alternate(rng, turn=length) for length in lengths])
    # Two continuations of each prompt but the first: one that follows its prompt, and one that does not.
    order = np.repeat(np.arange(1, 40), 2)
    follows = find_events_of_many([alternate(rng, turn=lengths[number]) for number in order])
    ignores = find_events_of_many([alternate(rng) for _ in order])
    high, low = correlate(follows, order, real, OPTIONS)["ipu"], correlate(ignores, order, real, OPTIONS)["ipu"]
    assert high["n"] == 39 and high["r"] > 0.5 and high["interval"][0] > 0.2 and high["interval"][0] < high["r"]
    assert abs(low["r"]) < 0.4 and low["interval"][0] < 0 < low["interval"][1]
    x = [np.mean([e.duration for e, k in zip(follows.ipus, follows.ipus.conversation, strict=True) if order[k] == p])
         for p in range(1, 40)]  # fmt: skip
    y = [np.mean([e.duration for e, k in zip(real.ipus, real.ipus.conversation, strict=True) if k == p])
         for p in range(1, 40)]  # fmt: skip
    assert high["r"] == pytest.approx(pearsonr(x, y).statistic)


def test_correlation_needs_prompts_that_differ() -> None:
    rng = np.random.default_rng(0)
    real = find_events_of_many([alternate(rng) for _ in range(4)])
    few = correlate(find_events_of_many([alternate(rng)] * 2), np.array([0, 1]), real, OPTIONS)
    assert few["ipu"]["r"] is None and "3 prompts" in few["ipu"]["reason"] and few["ipu"]["interval"] is None
    same = correlate(find_events_of_many([alternate(rng)] * 4), np.arange(4), real, OPTIONS)
    assert same["ipu"]["r"] is None and "do not differ" in same["ipu"]["reason"]
    nothing = correlate(find_events_of_many([]), np.zeros(0, int), find_events_of_many([]))
    assert all(nothing[name]["r"] is None for name in KINDS.values())
