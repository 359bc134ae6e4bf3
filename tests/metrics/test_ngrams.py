"""N-grams of units: distributions that add up, figures worked by hand, and sources whose entropy is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.ngrams import measure_unit_files
from speechdlm_ext.metrics.ngrams import BOUNDARY, KneserNey, has_repeats, measure_ngram
from tests.helpers.markov import UNITS, MarkovSource

sequences = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(train=sequences, order=st.integers(1, 4), context=st.lists(st.integers(0, 5), max_size=5))
def test_every_context_has_a_distribution(train: list[list[int]], order: int, context: list[int]) -> None:
    """Also contexts that were never seen, and a unit 5 that was never seen; with repeats skipped, too."""
    if not any(train):
        train = [[1]]
    for without in {False, not has_repeats(train)}:
        model = KneserNey(train, order, 6, without)
        before = (BOUNDARY, *context)
        chances = [model.probability(unit, before) for unit in (*range(6), BOUNDARY)]
        assert sum(chances) == pytest.approx(1.0) and min(chances) >= 0
        possible = [c for unit, c in enumerate(chances[:-1]) if not (without and context and unit == context[-1])]
        assert min(possible) > 0 or order == 1


def test_a_bigram_by_hand() -> None:
    """Counts 0-1 twice, 1-0 once; 0 begins twice and 1 ends once. Too few to tell discounts: a half each."""
    model = KneserNey([[0, 1, 0], [0, 1]], 2, 3)
    # Lowest order: in how many contexts each occurs (0 after the boundary and 1, 1 after 0, the boundary after 0 and 1)
    # of 5, less a half each, whose 1.5 go to 4 symbols alike.
    lowest = {0: 1.5 / 5 + 0.3 / 4, 1: 0.5 / 5 + 0.3 / 4, BOUNDARY: 1.5 / 5 + 0.3 / 4, 2: 0.3 / 4}
    assert model.probability(2, (0,) * 0) == pytest.approx(lowest[2])
    # After 0: 1 twice, the boundary once.
    for unit, seen in ((1, 2), (BOUNDARY, 1), (2, 0)):
        expected = max(seen - 0.5, 0) / 3 + 1 / 3 * lowest[unit]
        assert model.probability(unit, (BOUNDARY, 0)) == pytest.approx(expected)
    found = measure_ngram(model, [[2]], seconds=0.5)
    begin, end = 2 / 4 * 0 + 0.5 / 2 * lowest[2], lowest[BOUNDARY]  # after 2, which was never seen: the lowest order
    assert found.bits_per_unit == pytest.approx(-math.log2(begin)) and found.units == found.utterances == 1
    assert found.bits_per_second == pytest.approx(2 * found.bits_per_unit)
    assert found.nll_loss == pytest.approx(-(math.log2(begin) + math.log2(end)) / 2)


@pytest.mark.commands
def test_a_trigram_learns_a_source_of_order_two_and_lower_orders_do_not() -> None:
    source = MarkovSource()
    train, valid = source.draw(np.full(1500, 100), 1), source.draw(np.full(20, 100), 2)
    expected = source.bits_per_unit(valid)
    bits = [measure_ngram(KneserNey(train, order, UNITS), valid).bits_per_unit for order in (1, 2, 3, 4)]
    assert bits[0] == pytest.approx(math.log2(UNITS), rel=0.01) and bits[1] > 1.1 * expected
    assert expected < bits[2] < 1.06 * expected and bits[2] <= bits[3] < bits[1]


def write_units(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_with_durations_copies_and_frames(tmp_path: Path, run_loaded: Any, checkout: Path) -> None:
    random = np.random.default_rng(0)
    rows = []
    for number in range(12):
        units = np.cumsum(random.integers(1, 4, 60)) % 9
        row = {"audio": f"r{number}", "unitA": " ".join(map(str, units)), "frame_rate": 25.0}
        rows.append({**row, "unitA.durations": " ".join(map(str, 1 + units % 5))})
    copies = [{**row, "audio": f"{row['audio']}-fast", "copy_of": row["audio"]} for row in rows[:8]]
    train = write_units(tmp_path / "train.jsonl", rows[:8] + copies)
    valid = write_units(tmp_path / "valid.jsonl", rows[8:])
    lines = [[[int(unit) for unit in row["unitA"].split()] for row in part] for part in (rows[:8], rows[8:])]
    frames = sum(int(d) for row in rows[8:] for d in row["unitA.durations"].split())
    expected = measure_ngram(KneserNey(lines[0], 2, 9, without_repeats=True), lines[1], frames / 25)
    command = ["python", checkout / "scripts" / "measure_ngrams.py", train, valid, "--json", tmp_path / "figures.json"]
    done = run_loaded([*command, "--without-copies", "--orders", "2"])
    (found,) = json.loads((tmp_path / "figures.json").read_text())
    assert found == pytest.approx(vars(expected)) and f"{expected.bits_per_second:.2f}" in done.stdout
    with_copies, more_units = (
        measure_unit_files(train, valid, [2])[0],
        measure_unit_files(train, valid, [2], 50, copies=False)[0],
    )
    assert with_copies.bits_per_unit != expected.bits_per_unit and more_units.nll_loss > expected.nll_loss
    for options, message in (
        ({"num_units": 4}, "--num-units 4: unit 8 occurs"),
        ({"channel": "unitB"}, "no channel unitB"),
    ):
        with pytest.raises(InputError, match=message):
            measure_unit_files(train, valid, [1], **options)
    with pytest.raises(InputError, match="no units in it"):
        measure_unit_files(train, write_units(tmp_path / "empty.jsonl", [{"audio": "a", "unitA": ""}]), [1])
