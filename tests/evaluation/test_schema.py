"""The schema: every figure once, and the documentation that is generated from it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from speechdlm_ext.evaluation.schema import EVENTS, GROUPS, find_figure, format_value, markdown, schema_json
from speechdlm_ext.metrics.events import KINDS
from speechdlm_ext.metrics.signal import SoundMeter
from speechdlm_ext.metrics.units import compare_units, unit_figures
from speechdlm_ext.metrics.words import error_rates, talk_figures


def test_the_documentation_is_up_to_date(checkout: Path) -> None:
    found = (checkout / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert found == markdown(), "run: python -m speechdlm_ext.evaluation.schema docs/metrics.md"


def test_every_figure_is_in_the_schema() -> None:
    assert list(EVENTS) == list(KINDS.values())
    meter = SoundMeter(8000, 1)
    meter.add(np.zeros((1, 800), np.float32), [[]])
    words = error_rates(["a b"], ["a c"])
    found = {
        "sound": set(meter.figures()[0]),
        "units": {*unit_figures([[[1, 1, 2]]], 50.0)["all"], *compare_units([[[1, 2]]], [[[1, 2]]])["all"]},
        "words": {*talk_figures(["a"], 1.0, 1.0), *words, *words["words"]} - {"characters", "normalisation"},
    }
    for group, keys in found.items():
        assert keys - {"reason"} == set(GROUPS[group].figures), group


def test_each_has_a_name_and_one_line_of_meaning() -> None:
    texts = [*EVENTS.values(), *((f.label, f.meaning) for g in GROUPS.values() for f in g.figures.values())]
    for label, meaning in texts:
        assert label and meaning and "\n" not in meaning and not meaning.endswith(".")
    assert {f.better for g in GROUPS.values() for f in g.figures.values()} == {"", "higher", "lower"}
    described = schema_json()
    assert described["sound"]["snr"] == {
        "label": "SNR", "unit": "dB", "meaning": "Level of speech over the level outside of speech", "better": "higher",
    }  # fmt: skip
    assert find_figure("sound", "nothing") is None and find_figure("nothing", "snr") is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    (
        (None, "", "–"),
        (math.nan, "s", "–"),
        (True, "", "yes"),
        ("words", "", "words"),
        (1234, "", "1,234"),
        (0.011, "%", "1.10\N{NO-BREAK SPACE}%"),
        (-23.96, "dB", "−24.0"),
        (-0.00004, "", "−0.00004"),
        (0.0, "s", "0"),
        (123.4, "bits per second", "123"),
        (0.25, "s", "0.250"),
    ),
)
def test_values_have_three_digits_and_no_exponent(value: object, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_differences_have_their_sign() -> None:
    assert format_value(0.5, "s", signed=True) == "+0.500" and format_value(-2, "", signed=True) == "−2"
