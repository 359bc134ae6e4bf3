"""Figures of units: by hand, by formulas, and against scipy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from speechdlm_ext.metrics.units import compare_units, deduplicate, entropy, jensen_shannon, unit_figures

units = st.lists(st.integers(0, 5), max_size=60)


@settings(deadline=None)
@given(units)
def test_runs_and_their_lengths_are_the_units(sequence: list[int]) -> None:
    runs, lengths = deduplicate(sequence)
    assert np.repeat(runs, lengths).tolist() == sequence
    assert (runs[1:] != runs[:-1]).all() and (lengths > 0).all()


def test_by_hand() -> None:
    # Runs 7 5 7 (2, 1, 1 frames) and 5 9 (4, 2): five runs in 10 frames at 50 Hz.
    figures = unit_figures([[[7, 7, 5, 7]], [[5, 5, 5, 5, 9, 9]]], 50)["all"]
    bits = -(2 * 0.4 * math.log2(0.4) + 0.2 * math.log2(0.2))
    assert figures["frames"] == 10 and figures["seconds"] == 0.2 and figures["different"] == 3
    assert figures["unit_rate"] == pytest.approx(25) and figures["mean_run"] == pytest.approx(0.04)
    assert figures["entropy"] == pytest.approx(bits) and figures["bitrate"] == pytest.approx(25 * bits)
    assert figures["frame_entropy"] == pytest.approx(
        -(0.3 * math.log2(0.3) + 0.5 * math.log2(0.5) + 0.2 * math.log2(0.2))
    )
    assert figures["bitrate_with_durations"] == pytest.approx(25 * math.log2(5))  # (unit, length) all differ
    assert figures["repetition"] is None and figures["reason"] == "no channel has 4 runs"


def test_channels_apart_and_repetition() -> None:
    loop = [1, 2, 3] * 10  # 27 four-grams, 3 different
    steps = list(range(30))
    figures = unit_figures([[loop, steps]], 50)
    assert figures["channels"][0]["repetition"] == pytest.approx(24 / 27)
    assert figures["channels"][1]["repetition"] == 0 and figures["channels"][1]["entropy"] == pytest.approx(
        math.log2(30)
    )
    assert figures["all"]["repetition"] == pytest.approx(24 / 54) and figures["all"]["seconds"] == pytest.approx(1.2)
    # The same n-gram in two dialogues is no repetition.
    assert unit_figures([[steps], [steps]], 50)["all"]["repetition"] == 0


def test_nothing_is_none() -> None:
    for corpus in ([], [[[]]]):
        figures = unit_figures(corpus, 50)
        assert figures["all"]["bitrate"] is None and figures["all"]["reason"] == "there are no units"
        json.dumps(figures, allow_nan=False)
    assert compare_units([[[1, 2]]], [])["all"]["reason"] == "reference: there are no units"


counts = st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any)


@settings(deadline=None)
@given(counts, counts)
def test_jensen_shannon_against_scipy(first: list[int], second: list[int]) -> None:
    theirs = jensenshannon(first, second, base=2)
    assert jensen_shannon(first, second) == pytest.approx(0 if np.isnan(theirs) else theirs**2, abs=1e-9)
    assert entropy(first) >= 0


def test_comparison() -> None:
    real = [[[1, 2, 3, 4, 5, 6]], [[1, 1, 2, 3, 4]]]
    distance = compare_units([[[1, 2, 2, 3, 4, 9]]], real)["all"]  # 1 2 3 4 is known, 2 3 4 9 is not
    assert distance["novelty"] == 0.5 and 0 < distance["jensen_shannon"] < 1
    assert compare_units(real, real)["all"] == {"jensen_shannon": 0, "novelty": 0, "reason": None}
    assert compare_units([[[7, 8, 7, 8]]], real)["channels"][0]["jensen_shannon"] == pytest.approx(1)


@settings(deadline=None)
@given(st.lists(units, max_size=4), st.lists(units, max_size=4), st.integers(1, 5), st.sampled_from((1, 10**6)))
def test_ngrams_by_brute_force(mine: list[list[int]], theirs: list[list[int]], ngram: int, scale: int) -> None:
    """Counted as tuples; with large units, too, whose n-grams do not fit into a number at once."""

    def grams(sequence: list[int]) -> list[tuple[int, ...]]:
        runs = deduplicate(sequence)[0].tolist()
        return [tuple(runs[k : k + ngram]) for k in range(len(runs) - ngram + 1)]

    scaled = [[scale * unit for unit in sequence] for sequence in mine]
    all_of_mine = [gram for sequence in mine for gram in grams(sequence)]
    figures = unit_figures([[sequence] for sequence in scaled], 50, ngram)["all"]
    repeated = sum(len(grams(sequence)) - len(set(grams(sequence))) for sequence in mine)
    assert figures["repetition"] == (repeated / len(all_of_mine) if all_of_mine else None)
    known = {gram for sequence in theirs for gram in grams(sequence)}
    if scale == 1:
        found = compare_units([[sequence] for sequence in mine], [[sequence] for sequence in theirs], ngram)["all"]
        new = sum(gram not in known for gram in all_of_mine)
        assert found["novelty"] == (new / len(all_of_mine) if all_of_mine and known else None)
