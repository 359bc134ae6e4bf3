"""Figures of two corpora as tables: every figure named and explained, nothing rounded away, nothing made up."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest

from speechdlm_ext.evaluation.full_duplex import _pool
from speechdlm_ext.evaluation.likelihood import _means
from speechdlm_ext.metrics.events import KINDS
from speechdlm_ext.metrics.signal import SoundMeter
from speechdlm_ext.metrics.unit_figures import compare_units, unit_figures
from speechdlm_ext.metrics.words import error_rates, talk_figures
from speechdlm_ext.report.comparison import plain_differences, reasons, summary_table
from speechdlm_ext.report.further import further_tables, plain_value
from speechdlm_ext.report.glossary import EVENTS, FURTHER


def rows_of(html: str) -> dict[str, list[str]]:
    """Cells by the first line of the row's heading."""
    found = {}
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html):
        cells = [unescape(re.sub(r"<small>.*", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        found[cells[0]] = cells[1:]
    return found


def test_every_figure_is_explained() -> None:
    assert list(EVENTS) == list(KINDS.values())
    meter = SoundMeter(8000, 1)
    meter.add(np.zeros((1, 800), np.float32), [[]])
    units = unit_figures([[[1, 1, 2]]], 50.0)["all"] | compare_units([[[1, 2]]], [[[1, 2]]])["all"]
    words = error_rates(["a b"], ["a c"])
    found = {*meter.figures()[0], *units, *talk_figures(["a"], 1.0, 1.0), *words, *words["words"]}
    found |= {*_means(np.array([4.0, -2.0, 8.0, -4.0, 4.0]), 2.0), *_pool([])}
    assert found - {"reason", "characters"} <= set(FURTHER)
    for term in (*EVENTS.values(), *FURTHER.values()):
        assert term.label and term.meaning and "\n" not in term.meaning and not term.meaning.endswith(".")


def test_channels_lie_beside_each_other() -> None:
    units = {"all": {"bitrate": 123.4, "reason": None}, "A": {"bitrate": 1.25}, "B": {"bitrate": None}}
    sound = {"A": {"level": -23.96, "dc": -0.00004, "reason": None}, "B": {"level": -8.5, "dc": 0.0, "reason": "mute"}}
    html = further_tables(
        {"generated": {"units": units, "sound": sound}, "reference": {"sound": sound}, "distance": {}},
        ["generated", "reference"],
    )
    rows = rows_of(html.replace("\N{NO-BREAK SPACE}", " "))
    assert rows["Bitrate"] == ["123", "", ""] and "A 1.25 · B –" in html.replace("\N{NO-BREAK SPACE}", " ")
    assert rows["Level"] == ["A −24.0 · B −8.50"] * 2 + [""]
    assert rows["DC"] == ["A −0.00004 · B 0"] * 2 + [""]
    assert rows["reason"] == ["A – · B mute"] * 2 + [""]
    assert html.index("Units") < html.index("Sound")


def test_benchmark_has_a_column_for_each_task() -> None:
    figures = {"all": {"samples": 3, "latency": 0.25}, "user <x>": {"samples": 1, "latency": None}}
    html = further_tables({"full_duplex_bench": {**figures, "not_computed": ["a judge"]}}, ["generated"])
    assert rows_of(html)["Latency"] == ["0.250", "–"] and rows_of(html)["Samples"] == ["3", "1"]
    assert "user &lt;x&gt;" in html and "Not computed: a judge." in html
    assert further_tables({}, ["generated"]) == ""


def test_summary_has_both_corpora_the_distance_and_the_yardstick() -> None:
    gap = {"n": 4, "per_minute": 2.0, "median": 0.4, "interval": {"per_minute": [1.0, 3.0]}, "reason": None}
    unknown = {"n": 0, "per_minute": None, "median": None, "interval": None, "reason": "one channel only"}
    result = {
        "generated": {"speech_share": [0.4, None], "gap": gap, "pause": gap},
        "reference": {"speech_share": None, "gap": unknown, "pause": gap | {"per_minute": 7.0}},
        "distance": {
            "pause": {"per_minute": -5.0, "wasserstein": 0.25, "interval": {"per_minute": [-7.0, -1.0]}},
            "gap": {"per_minute": None, "wasserstein": None, "interval": None},
        },
        "yardstick": {"pause": {"per_minute": 0.5, "wasserstein": 0.125}},
        "correlation": {"pause": {"r": -0.5, "interval": [-0.75, 0.25]}},
    }
    html = summary_table(result, ["generated", "reference"])
    rows = rows_of(html)
    assert rows["Gap"] == ["2.0", "–", "–", "0.40 s", "–", "–", "–"]
    assert rows["Pause"] == ["2.0", "7.0", "−5.0", "0.40 s", "0.40 s", "0.25 s", "−0.50"]
    assert rows["Speech"][:2] == ["40\N{NO-BREAK SPACE}% · –", "–"]
    for text in ("1.0 to 3.0", "−7.0 to −1.0", "halves 0.5", "halves 0.12 s", "−0.75 to 0.25"):
        assert f"<small>{text}</small>" in html
    assert "pause (−5.0 a minute)" in plain_differences(result) and "gap" not in plain_differences(result)
    assert reasons(result, ["generated", "reference"]) == [["reference", "Gap", "one channel only"]]
    few = {"r": None, "n": 1, "interval": None, "reason": "3 prompts are needed"}
    result["correlation"] |= {"gap": few, "turn": few}
    assert reasons(result, ["generated"]) == [["correlation", "Gap; Turn", "3 prompts are needed"]]
    result["distance"]["pause"]["interval"]["per_minute"] = [-7.0, 0.0]
    assert plain_differences(result).startswith("No rate")
    assert plain_differences({"generated": {}}) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    (
        (None, "–"),
        (True, "yes"),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (-0.5, "−0.500"),
        (1e-9, "0"),
        ([0.5, None], "0.500 / –"),
        ({}, None),
        ([], None),
        (list(range(9)), None),
    ),
)
def test_values_as_text(value: object, text: str | None) -> None:
    assert plain_value(value) == text
