"""scripts/benchmark.py: turns, ratios, bounds, and the one promise about the start of Python."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def comparison(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "scripts"))
    from benchmarks import comparison

    return comparison


def test_a_ratio_above_one_means_that_ours_is_better(comparison):
    durations = comparison.Comparison("time", [4.0, 2.0, 3.0], [1.0, 1.5, 2.0], "s")
    rates = comparison.Comparison("rate", [4.0, 2.0, 3.0], [1.0, 1.5, 2.0], "frames/s", more_is_better=True)
    spread = {"baseline": [2.0, 4.0], "ours": [1.0, 2.0]}
    assert durations.row() == {"baseline": 3.0, "ours": 1.5, "ratio": 2.0, "unit": "s", "spread": spread}
    assert rates.ratio() == 0.5
    assert "3 s [2 … 4]" in durations.line() and "1.5 s [1 … 2]" in durations.line()
    assert comparison.table([durations, rates]).splitlines()[2:] == [
        "| time | s | 3 [2 … 4] | 1.5 [1 … 2] | 2 |",
        "| rate | frames/s | 3 [2 … 4] | 1.5 [1 … 2] | 0.5 |",
    ]


def test_baseline_and_ours_take_turns_and_change_who_goes_first(comparison):
    order = []
    values = comparison.in_turns(
        lambda: order.append("b") or 1.0, lambda: order.append("o") or 2.0, rounds=4, warm_up=2
    )
    assert values == ([1.0] * 4, [2.0] * 4)
    assert "".join(order) in ("boob" * 3, "obbo" * 3)


@pytest.mark.slow
def test_python_starts_at_most_5_ms_later(run_command, checkout, tmp_path):
    results = tmp_path / "results.json"
    done = run_command(["python", checkout / "scripts" / "benchmark.py", "startup", "--json", results])
    row = json.loads(results.read_text())["startup"]
    assert row["unit"] == "ms" and row["ours"] - row["baseline"] <= 5.0, done.stdout


def test_an_unknown_part_is_one_line(run_command, checkout):
    done = run_command(["python", checkout / "scripts" / "benchmark.py", "sartup"], check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "sartup" in line and "startup" in line
