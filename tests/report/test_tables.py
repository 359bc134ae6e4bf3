"""Figures of two corpora as tables: every figure named and explained, nothing rounded away, nothing made up."""

from __future__ import annotations

import re
from html import unescape

from speechdlm_ext.report.tables import clear_differences, group_tables, summary_table, unknown_table


def rows_of(html: str) -> dict[str, list[str]]:
    """Cells by the first line of the row's heading."""
    found = {}
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html):
        cells = [unescape(re.sub(r"<small>.*", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        found[cells[0]] = cells[1:]
    return found


def test_channels_lie_beside_each_other() -> None:
    units = {"all": {"bitrate": 123.4, "reason": None}, "A": {"bitrate": 1.25}, "B": {"bitrate": None}}
    sound = {"A": {"level": -23.96, "dc": -0.00004, "reason": None}, "B": {"level": -8.5, "dc": 0.0, "reason": "mute"}}
    html = group_tables(
        {"generated": {"units": units, "sound": sound}, "reference": {"sound": sound}, "distance": {}},
        ["generated", "reference"],
    )
    rows = rows_of(html.replace("\N{NO-BREAK SPACE}", " "))
    assert rows["Bitrate"] == ["123", "", ""] and "A 1.25 · B –" in html.replace("\N{NO-BREAK SPACE}", " ")
    assert rows["Level"] == ["A −24.0 · B −8.50"] * 2 + [""]
    assert rows["DC offset"] == ["A −0.00400 % · B 0 %"] * 2 + [""]
    assert rows["reason"] == ["A – · B mute"] * 2 + [""]
    assert html.index("Units") < html.index("Audio signal")


def test_benchmark_has_a_column_for_each_task() -> None:
    figures = {"all": {"samples": 3, "latency": 0.25}, "user <x>": {"samples": 1, "latency": None}}
    html = group_tables({"full_duplex_bench": {**figures, "not_computed": ["a judge"]}}, ["generated"])
    assert rows_of(html)["Latency"] == ["0.250", "–"] and rows_of(html)["Samples"] == ["3", "1"]
    assert "user &lt;x&gt;" in html and "Not computed: a judge." in html
    assert group_tables({}, ["generated"]) == ""


def test_summary_has_both_corpora_the_distance_and_the_halves() -> None:
    gap = {"n": 4, "per_minute": 2.0, "median": 0.4, "interval": {"per_minute": [1.0, 3.0]}, "reason": None}
    unknown = {"n": 0, "per_minute": None, "median": None, "interval": None, "reason": "one channel only"}
    result = {
        "generated": {"speech_share": [0.4, None], "gap": gap, "pause": gap},
        "reference": {"speech_share": None, "gap": unknown, "pause": gap | {"per_minute": 7.0}},
        "distance": {
            "pause": {"per_minute": -5.0, "wasserstein": 0.25, "interval": {"per_minute": [-7.0, -1.0]}},
            "gap": {"per_minute": None, "wasserstein": None, "interval": None},
        },
        "split_half": {"pause": {"per_minute": 0.5, "wasserstein": 0.125}},
        "correlation": {"pause": {"r": -0.5, "interval": [-0.75, 0.25]}},
    }
    html = summary_table(result, ["generated", "reference"])
    rows = rows_of(html)
    assert rows["Gap"] == ["2.0", "–", "–", "0.40 s", "–", "–", "–"]
    assert rows["Pause"] == ["2.0", "7.0", "−5.0", "0.40 s", "0.40 s", "0.25 s", "−0.50"]
    assert rows["Speech"][:2] == ["40\N{NO-BREAK SPACE}% · –", "–"]
    for text in ("1.0 to 3.0", "−7.0 to −1.0", "split-half 0.5", "split-half 0.12 s", "−0.75 to 0.25"):
        assert f"<small>{text}</small>" in html
    assert "Pause (−5.0 per minute)" in clear_differences(result) and "Gap" not in clear_differences(result)
    assert rows_of(unknown_table(result, ["generated", "reference"]))["reference"] == ["Gap", "one channel only"]
    few = {"r": None, "n": 1, "interval": None, "reason": "3 prompts are needed"}
    result["correlation"] |= {"gap": few, "turn": few}
    assert rows_of(unknown_table(result, ["generated"]))["correlation"] == ["Gap; Turn", "3 prompts are needed"]
    result["distance"]["pause"]["interval"]["per_minute"] = [-7.0, 0.0]
    assert clear_differences(result).startswith("No rate")
    assert clear_differences({"generated": {}}) == ""


def test_differences_have_signs_and_distances_have_none() -> None:
    result = {
        "generated": {"units": {"all": {"unit_rate": 12.0}}},
        "distance": {"units": {"all": {"unit_rate": 2.0, "jensen_shannon": 0.25, "novelty": 0.5}}},
    }
    rows = rows_of(group_tables(result, ["generated"]))
    assert rows["Unit rate"] == ["12.0", "+2.00"] and rows["Novelty"] == ["", "50.0\N{NO-BREAK SPACE}%"]
    assert rows["Jensen–Shannon divergence"] == ["", "0.250"]
