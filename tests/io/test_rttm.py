"""RTTM files: what is written can be read, and broken lines are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.rttm import SpeakerTurn, read_rttm, speech_by_speaker, write_rttm


def test_round_trip(tmp_path: Path) -> None:
    turns = [SpeakerTurn("call", 1, 0.5, 1.25, "anna"), SpeakerTurn("call", 2, 1.5, 0.0001, "ben")]
    write_rttm(tmp_path / "a.rttm", turns)
    assert read_rttm(tmp_path / "a.rttm") == turns
    assert speech_by_speaker(turns) == {"call": {"anna": [(0.5, 1.75)], "ben": [(1.5, pytest.approx(1.5001))]}}


def test_other_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.rttm"
    path.write_text(
        "\ufeffSPEAKER call 1 0.0 0.2 <NA> <NA> anna <NA> <NA>\n"
        ";; comment\n\nSPKR-INFO call 1 <NA> <NA> <NA> unknown anna <NA>\n"
        "SPEAKER call 1 0.5 1.0 <NA> <NA> anna <NA> <NA>\n",
        encoding="utf-8",
    )
    assert [turn.end for turn in read_rttm(path)] == [0.2, 1.5]


@pytest.mark.parametrize(
    "line",
    (
        "SPEAKER call 1 0.5 -1.0 <NA> <NA> anna <NA> <NA>",
        "SPEAKER call 1 -0.5 1.0 <NA> <NA> anna <NA> <NA>",
        "SPEAKER call 1 zero 1.0 <NA> <NA> anna <NA> <NA>",
        "SPEAKER call 1 nan 1.0 <NA> <NA> anna <NA> <NA>",
        "SPEAKER call 1 0.5",
    ),
)
def test_broken_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.rttm"
    path.write_text(f";; first\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_rttm(path)


def test_missing_file_and_names_with_spaces(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_rttm(tmp_path / "none.rttm")
    with pytest.raises(InputError, match="white space"):
        write_rttm(tmp_path / "a.rttm", [SpeakerTurn("my call", 1, 0, 1, "anna")])
    assert not (tmp_path / "a.rttm").exists()
