"""scripts/benchmark.py: turns, ratios, bounds, and the one promise about the start of Python."""

from __future__ import annotations

import json
import sys

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


# The benchmark as it is, but that a start's time is that of the processor: other processes do not make it longer.
BY_PROCESSOR = """
import resource, runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
from benchmarks import startup
def spent():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
def seconds(work):
    before = spent()
    work()
    return spent() - before
startup.seconds = seconds
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.commands
def test_python_starts_at_most_5_ms_later(run_command, checkout, tmp_path):
    results = tmp_path / "results.json"
    command = [checkout / "scripts" / "benchmark.py", "startup", "--json", results]
    done = run_command(["python", "-c", BY_PROCESSOR, *command])
    row = json.loads(results.read_text())["startup"]
    assert row["unit"] == "ms" and row["ours"] - row["baseline"] <= 5.0, done.stdout
    assert row["baseline"] > 1  # a start takes some


def test_an_unknown_part_is_one_line(run_command, checkout):
    done = run_command(["python", checkout / "scripts" / "benchmark.py", "sartup"], check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "sartup" in line and "startup" in line


def test_a_gpu_that_is_not_there_is_one_line(run_command, checkout):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = run_command(["python", checkout / "scripts" / "benchmark.py", "train", "--device", "cuda"], check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--device cuda" in line and "no GPU" in line


def test_every_part_is_there_and_says_what_it_measures(run_command, checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "scripts"))
    from benchmarks import PARTS

    listed = run_command(["python", checkout / "scripts" / "benchmark.py", "--list"]).stdout.splitlines()
    page = (checkout / "docs" / "performance.md").read_text()
    assert [line.split()[0] for line in listed] == list(PARTS) and len(PARTS) > 12
    assert all(len(line.split()) > 5 for line in listed) and all(f"`{name}`" in page for name in PARTS)


@pytest.mark.commands
def test_a_worker_that_fails_says_why_in_one_line(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "scripts"))
    from benchmarks import sides

    settings = {"work": "train", "threads": 1, "imports": ["no_such_module"]}
    with pytest.raises(Exception, match="^the other ended with status 1: .*no_such_module'$"):
        sides.Side("the other", sys.executable, settings)


def test_dialogues_are_runs_of_units_of_the_length_asked_for(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "scripts"))
    from benchmarks import material

    made = material.dialogue(5000, seed=1)
    for units in (line.split() for line in made.values()):
        assert len(units) == 5000 and {int(unit) for unit in units} <= set(range(500))
        changes = sum(a != b for a, b in zip(units, units[1:], strict=False))
        assert 0.45 < changes / 5000 < 0.55
    assert made == material.dialogue(5000, seed=1) != material.dialogue(5000, seed=2)
