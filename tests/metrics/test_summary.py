"""Figures of events: worked by hand, intervals that cover, and None with a reason instead of 0 or NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speechdlm_ext.metrics.bootstrap import BootstrapOptions, draw_weights, percentile_interval, ratios
from speechdlm_ext.metrics.events import KINDS, one_conversation
from speechdlm_ext.metrics.summary import describe, summarize
from speechdlm_ext.metrics.turn_taking import find_events_of_many


def test_figures_of_durations() -> None:
    assert describe([1.0, 2.0, 6.0], 2.0) == {
        "n": 3,
        "per_minute": 1.5,
        "seconds_per_minute": 4.5,
        "mean": 3.0,
        "median": 2.0,
        "quantiles": {"0.1": pytest.approx(1.2), "0.25": 1.5, "0.75": 4.0, "0.9": pytest.approx(5.2)},
        "reason": None,
    }


def test_pooled_figures() -> None:
    pooled = find_events_of_many([([[(0, 2)], [(3, 4)]], 30), ([[(0, 4)], []], 90)])
    assert pooled.duration == 120 and pooled.speech == [6, 1] and len(pooled.ipus) == 3
    figures = summarize(pooled)
    assert figures["ipu"]["per_minute"] == 1.5 and figures["conversations"] == 2 and figures["minutes"] == 2
    assert figures["speech_share"] == [0.05, 1 / 120]
    assert figures["floor_transfer_offset"]["mean"] == 1.0
    # That nobody interrupted is known, how long interruptions last is not.
    assert figures["interruption"]["per_minute"] == 0 and figures["interruption"]["mean"] is None
    assert figures["interruption"]["reason"] == "there is none"


@pytest.mark.parametrize(
    ("talks", "reason"),
    (
        ([], "there is no conversation"),
        ([([[], []], 0.0)], "no time was observed"),
        ([([[], []], 60.0)], "no speech was found"),
    ),
)
def test_nothing_to_say(talks: list, reason: str) -> None:
    figures = summarize(find_events_of_many(talks), BootstrapOptions(resamples=10))
    for name in KINDS.values():
        assert figures[name]["reason"] == reason
        assert all(figures[name][key] is None for key in ("n", "per_minute", "seconds_per_minute", "mean", "interval"))
    json.dumps(figures, allow_nan=False)


def test_one_channel_has_no_gaps_to_count() -> None:
    alone = ([[(0, 2), (3, 4)]], 30.0)
    figures = summarize(find_events_of_many([alone]))
    assert figures["pause"]["per_minute"] == 2 and figures["turn"]["n"] == 1
    assert figures["gap"]["per_minute"] is None and figures["gap"]["reason"] == "one channel only"
    assert figures["gap"]["n"] is None  # not 0: nobody could have left one
    one = summarize(find_events_of_many([alone]), BootstrapOptions(10))["pause"]
    assert one["interval"] is None and one["reason"] == "intervals need two conversations or more"
    # Beside a conversation of two channels it says nothing about the second one.
    pair = find_events_of_many([alone, ([[(0, 1)], [(1, 4)]], 10.0)])
    assert summarize(pair)["speech_share"] == [pytest.approx(4 / 40), 0.3]
    assert summarize(one_conversation(pair, 0))["speech_share"] == [pytest.approx(0.1)]
    # Beside a conversation of two, the time of the lone channel does not dilute what two can do.
    mixed = summarize(find_events_of_many([alone, ([[(0, 2)], [(2.5, 5)]], 60.0)]))
    assert mixed["gap"]["per_minute"] == 1 and mixed["ipu"]["per_minute"] == pytest.approx(4 / 1.5)


def test_resampling() -> None:
    options = BootstrapOptions(resamples=2000, seed=3)
    weights = draw_weights(5, options)
    assert weights.shape == (2000, 5) and (weights.sum(axis=1) == 5).all()
    assert np.allclose(weights.mean(axis=0), 1, atol=0.1)
    assert np.array_equal(weights, draw_weights(5, options))
    assert not np.array_equal(weights, draw_weights(5, options, stream=1))
    count, minutes = np.array([1.0, 2, 3, 4, 0]), np.array([1.0, 1, 2, 2, 0])
    rows = [(w @ count) / (w @ minutes) for w in weights[:50]]
    assert np.allclose(ratios(weights[:50], count, minutes), rows)
    assert percentile_interval(np.arange(101.0), BootstrapOptions(confidence=0.9)) == pytest.approx([5, 95])
    assert percentile_interval(np.array([1.0, np.nan, np.nan]), options) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Conversations with a Poisson number of pauses around a rate of their own; the mean rate is 6 a minute."""
    rng, covered = np.random.default_rng(0), 0
    for trial in range(60):
        talks = []
        for _ in range(25):
            count = rng.poisson(rng.gamma(6, 1.0) * 2)
            starts = np.arange(count + 1) * 120 / (count + 1)
            talks.append(([[(s, s + 1) for s in starts]], 120.0))
        figures = summarize(find_events_of_many(talks), BootstrapOptions(resamples=300, seed=trial))
        low, high = figures["pause"]["interval"]["per_minute"]
        assert low < figures["pause"]["per_minute"] < high
        covered += low <= 6 <= high
    assert 51 <= covered <= 60  # 95 % of 60 is 57
    again = summarize(find_events_of_many(talks), BootstrapOptions(resamples=300, seed=59))
    assert again == figures
