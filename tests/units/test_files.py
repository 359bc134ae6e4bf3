"""Unit files: round trips, the published Python-dict lines, and lines that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import (
    channel_names,
    expand_durations,
    format_units,
    parse_units,
    read_unit_file,
    row_units,
    write_unit_file,
)


@given(st.lists(st.integers(0, 10**6)))
def test_units_round_trip(units: list[int]) -> None:
    assert parse_units(format_units(units)) == units


@pytest.mark.parametrize("text", ["7 -1", "7 x", "1.5", "½", "²", "٣", "9" * 5000])
def test_units_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="a number from 0 up"):
        parse_units(text)


def test_rows_round_trip(tmp_path: Path) -> None:
    rows = [{"audio": "größe 'x'", "unitA": "7 376 7", "unitB": "0 0 0", "start": 1.5}, {"audio": "b", "unitA": "1"}]
    write_unit_file(tmp_path / "units.jsonl", rows)
    assert read_unit_file(tmp_path / "units.jsonl") == rows
    assert "größe" in (tmp_path / "units.jsonl").read_text(encoding="utf-8")


def test_published_lines_are_read_and_never_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("{'audio': 'file_1', 'unitA': '7 376 376 133', 'unitB': '7 7 211 31'}\n\n", encoding="utf-8")
    assert read_unit_file(path) == [{"audio": "file_1", "unitA": "7 376 376 133", "unitB": "7 7 211 31"}]
    trap = tmp_path / "trap"
    path.write_text(f"{{'audio': open({str(trap)!r}, 'w').close(), 'unitA': '1'}}\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        read_unit_file(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no rows"),
        ("\n\n", "no rows"),
        ('{"audio": "a", "unitA": "1"}\n{"audio": \n', "line 2"),
        ("[1, 2]\n", "line 1: an object"),
        ('{"audio": "a", "unitA": [1, 2]}\n', "unitA must be a string"),
        ("(" * 10000 + "\n", "line 1"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, content: str | bytes, expected: str) -> None:
    path = tmp_path / "units.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=expected) as caught:
        read_unit_file(path)
    assert "\n" not in str(caught.value)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_unit_file(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="folder"):
        read_unit_file(tmp_path)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"audio": "a"}, "found none"),
        ({"audio": "a", "unitB": "1"}, "found unitB"),
        ({"audio": "a", "unitA": "1 2", "unitB": "1"}, r"unequal length \(2, 1 frames\)"),
        ({"audio": "a", "unitA": "", "unitB": ""}, "no units"),
        ({"audio": "a", "unitA": "1 x"}, "row a, unitA: unit 'x'"),
    ],
)
def test_rows_that_are_wrong(row: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        row_units(row)


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ("1 99999999999 2", "row a, unitA.durations: 99999999999 frames of one unit, at most 180000 are expected"),
        ("3 0 1", "row a, unitA.durations: unit number 2 lasts 0 frames, 1 or more are expected"),
        ("180001 1 1", "180001 frames of one unit"),
        ("180000 " * 25, "4500000 frames in all, at most 4320000 are expected"),
        ("1 " + "9" * 5000, "row a, unitA.durations: unit '9{30}'"),
    ],
)
def test_durations_that_cannot_be(durations: str, expected: str) -> None:
    units = " ".join("7" for _ in durations.split())
    with pytest.raises(InputError, match=expected) as caught:
        expand_durations({"audio": "a", "unitA": units, "unitA.durations": durations})
    assert len(str(caught.value)) < 200
    row = expand_durations({"audio": "a", "unitA": "7 8", "unitA.durations": "2 1"})
    assert row == {"audio": "a", "unitA": "7 7 8"}


def test_channel_names() -> None:
    assert channel_names(3) == ["unitA", "unitB", "unitC"]
    assert row_units({"unitB": "3 4", "unitA": "1 2", "audio": "a"}) == [[1, 2], [3, 4]]
    with pytest.raises(InputError):
        channel_names(27)
