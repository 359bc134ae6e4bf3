"""Accuracies against counting by hand over random scores; layouts that are published, and broken ones."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.zerospeech import measure_accuracy, read_tests
from speechdlm_ext.io.likelihoods import Likelihood, read_likelihoods, write_likelihoods
from speechdlm_ext.metrics.bootstrap import BootstrapOptions

LEXICAL = ["id", "filename", "voice", "frequency", "word", "phones", "length_phones", "correct"]
SYNTACTIC = ["id", "filename", "voice", "type", "subtype", "transcription", "correct"]


def write_gold(path: Path, columns: list[str], items: int, seed: int = 1) -> list[dict[str, Any]]:
    """Items said by two voices, right and wrong, in a random order of lines."""
    random = np.random.default_rng(seed)
    rows = []
    for item in range(items):
        for voice in "ab":
            for correct in (1, 0):
                name = "".join(random.choice(list("abcdefghijklmnop"), 10))
                facts = {"id": item, "filename": name, "voice": voice, "correct": correct, "type": f"t{item % 3}"}
                rows.append({column: facts.get(column, "x, y") for column in columns})
    random.shuffle(rows)
    path.mkdir(parents=True)
    with open(path / "gold.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def random_scores(names: list[str], seed: int = 2) -> dict[str, Likelihood]:
    """Few different values, so that there are ties."""
    random = np.random.default_rng(seed)
    return {name: Likelihood(name, -float(random.integers(1, 12))) for name in names}


def by_hand(rows: list[dict[str, Any]], scores: dict[str, Likelihood]) -> tuple[float, float, int, int]:
    """Accuracy, the same with ties for a half, pairs, ties: over every two rows of the file."""
    won: dict[Any, list[float]] = {}
    half: dict[Any, list[float]] = {}
    ties = 0
    for one in rows:
        for other in rows:
            alike = one["id"] == other["id"] and one["voice"] == other["voice"]
            if not alike or one["correct"] != 1 or other["correct"] != 0:
                continue
            if one["filename"] not in scores or other["filename"] not in scores:
                continue
            a, b = scores[one["filename"]].value, scores[other["filename"]].value
            won.setdefault(one["id"], []).append(1.0 if a > b else 0.0)
            half.setdefault(one["id"], []).append(1.0 if a > b else 0.5 if a == b else 0.0)
            ties += a == b
    mean = sum(sum(w) / len(w) for w in won.values()) / len(won)
    with_ties = sum(sum(w) / len(w) for w in half.values()) / len(half)
    return mean, with_ties, sum(map(len, won.values())), ties


@pytest.mark.parametrize(("columns", "groups"), [(LEXICAL, []), (SYNTACTIC, ["t0", "t1", "t2"])])
def test_accuracies_are_those_counted_by_hand(columns: list[str], groups: list[str], tmp_path: Path) -> None:
    rows = write_gold(tmp_path / "test", columns, 40)
    if columns is LEXICAL:  # a table that went through a spreadsheet begins with a mark
        gold = tmp_path / "test" / "gold.csv"
        gold.write_bytes(b"\xef\xbb\xbf" + gold.read_bytes())
    (test,) = read_tests(tmp_path / "test")
    scores = random_scores([row["filename"] for row in rows])
    gone = [rows[3]["filename"], rows[77]["filename"]]
    for name in gone:
        del scores[name]
    found = measure_accuracy(test, scores)
    accuracy, with_ties, pairs, ties = by_hand(rows, scores)
    assert test.name == ("lexical" if columns is LEXICAL else "syntactic")
    assert found["accuracy"] == pytest.approx(accuracy) and found["with_ties"] == pytest.approx(with_ties)
    assert (found["pairs"], found["ties"], found["items"]) == (pairs, ties, 40) and ties > 0
    assert found["missing"] == sorted(gone) and found["skipped"] == 80 - pairs
    assert list(found["groups"]) == groups
    for kind in groups:
        own = by_hand([row for row in rows if row["type"] == kind], scores)
        assert found["groups"][kind]["accuracy"] == pytest.approx(own[0]) and found["groups"][kind]["pairs"] == own[2]


def test_intervals_hold_the_truth_about_as_often_as_they_say(tmp_path: Path) -> None:
    """Items that are known with probability 0.7 in both voices: 95 % intervals of 60 tests."""
    rows = write_gold(tmp_path / "test", LEXICAL, 100)
    (test,) = read_tests(tmp_path / "test")
    random = np.random.default_rng(5)
    held = 0
    for _ in range(60):
        known = random.random(100) < 0.7
        scores = {
            row["filename"]: Likelihood("", float((row["correct"] == 1) == known[int(row["id"])])) for row in rows
        }
        low, high = measure_accuracy(test, scores, BootstrapOptions(300))["interval"]
        assert high - low < 0.25
        held += low <= 0.7 <= high
    assert 51 <= held <= 60


def test_the_challenges_folder_has_its_tests_by_name(tmp_path: Path) -> None:
    for place, columns in (("lexical/dev", LEXICAL), ("syntactic/dev", SYNTACTIC)):
        write_gold(tmp_path / place, columns, 3)
    assert [test.name for test in read_tests(tmp_path)] == ["lexical/dev", "syntactic/dev"]
    assert [test.name for test in read_tests(tmp_path / "lexical")] == ["dev"]


def test_stories_are_paired_by_name(tmp_path: Path) -> None:
    names = []
    for story in range(30):
        for side in ("correct", "incorrect"):
            path = tmp_path / "wavs" / f"{story}_spring-{story % 4}_{side}.wav"
            path.parent.mkdir(exist_ok=True)
            path.touch()
            names.append(str(path.name))
    (test,) = read_tests(tmp_path)
    scores = random_scores(names)  # keys with suffixes
    found = measure_accuracy(test, scores)
    pairs = list(zip(names[::2], names[1::2], strict=True))
    wins = sum(scores[one].value > scores[other].value for one, other in pairs)
    assert found["accuracy"] == pytest.approx(wins / 30) and found["items"] == 30
    assert found["ties"] == sum(scores[one].value == scores[other].value for one, other in pairs)


def test_what_has_no_likelihood_is_counted_and_named(tmp_path: Path) -> None:
    rows = write_gold(tmp_path / "test", LEXICAL, 5)
    scores = random_scores([row["filename"] for row in rows])
    empty = rows[0]["filename"]
    scores[empty] = Likelihood(empty, math.nan, "it has no units")
    write_likelihoods(tmp_path / "scores.txt", list(scores.values()))
    again = read_likelihoods(tmp_path / "scores.txt")
    assert again[empty].reason == "it has no units" and math.isnan(again[empty].value)
    assert {k: v for k, v in again.items() if k != empty} == {k: v for k, v in scores.items() if k != empty}
    (test,) = read_tests(tmp_path / "test")
    found = measure_accuracy(test, again)
    assert found["without_likelihood"] == {empty: "it has no units"} and found["pairs"] == 9 and found["skipped"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("filename", "file", 1), "column filename is missing, found id, file"),
        (lambda text: text.rstrip()[:-1] + "yes\n", "line 9: correct is 'yes'"),
        (lambda text: text + text.splitlines()[1] + "\n", "line 10: filename .* occurs twice"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "nothing to compare them with"),
        (lambda text: text.splitlines()[0] + "\n", "no rows"),
        (lambda text: text + "1,abc\n", "line 10: 8 fields are expected"),
        (lambda text: "", "column id is missing, found nothing"),
    ],
)
def test_a_malformed_table_is_one_line(change: Any, message: str, tmp_path: Path) -> None:
    write_gold(tmp_path / "test", LEXICAL, 2)
    gold = tmp_path / "test" / "gold.csv"
    gold.write_text(change(gold.read_text().replace("\r\n", "\n")))
    with pytest.raises(InputError, match=message) as error:
        read_tests(tmp_path / "test")
    assert "\n" not in str(error.value) and "gold.csv" in str(error.value)


def test_folders_that_are_no_tests_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_tests(tmp_path / "nothing")
    with pytest.raises(InputError, match="neither gold.csv"):
        read_tests(tmp_path)
    (tmp_path / "1_a_correct.wav").touch()
    with pytest.raises(InputError, match="1_a_correct has no counterpart"):
        read_tests(tmp_path)
    (tmp_path / "gold.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a table"):
        read_tests(tmp_path)


def test_scores_of_something_else_are_one_line(tmp_path: Path) -> None:
    write_gold(tmp_path / "test", LEXICAL, 2)
    (test,) = read_tests(tmp_path / "test")
    with pytest.raises(InputError, match="none of its 4 pairs has scores"):
        measure_accuracy(test, random_scores(["x"]))
    with pytest.raises(InputError, match="both are named x"):
        measure_accuracy(test, random_scores(["a/x.wav", "b/x.wav"]))
    for text, message in (("a 1\na 2\n", "twice"), ("a b 2\n", "line 1"), ("\n", "no scores"), ("a\n", "line 1")):
        (tmp_path / "scores.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            read_likelihoods(tmp_path / "scores.txt")


def test_the_command_says_what_was_counted(tmp_path: Path, run_loaded: Any, checkout: Path) -> None:
    rows = write_gold(tmp_path / "sLM21" / "lexical" / "dev", LEXICAL, 10)
    write_gold(tmp_path / "sLM21" / "syntactic" / "dev", SYNTACTIC, 3, seed=9)
    scores = random_scores([row["filename"] for row in rows[1:]])
    write_likelihoods(tmp_path / "scores.txt", list(scores.values()))
    command = ["python", checkout / "scripts" / "evaluate_scores.py", tmp_path / "scores.txt", tmp_path / "sLM21"]
    done = run_loaded([*command, "--json", tmp_path / "figures.json"])
    accuracy, with_ties, pairs, ties = by_hand(rows, scores)
    first, *others = done.stdout.splitlines()
    assert first.startswith(f"lexical/dev: {100 * accuracy:.2f} % [")
    assert f"{pairs} pairs, {ties} ties ({100 * with_ties:.2f} %" in first
    assert any(f"without a score: 1 ({rows[0]['filename']})" in line for line in others)
    assert "skipped: " in done.stderr and "syntactic" in done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["lexical/dev"]["accuracy"] == pytest.approx(accuracy)
    refused = run_loaded([*command[:-1], tmp_path], check=False)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
