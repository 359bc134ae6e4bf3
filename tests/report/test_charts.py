"""Distributions and ranges as charts: shares that add up, axes that hold the data, marks where the figures are."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.report.charts import Estimate, bin_edges, bin_shares, histogram_chart, range_chart

durations = st.lists(st.floats(-5, 300, allow_nan=False), min_size=1, max_size=60).map(np.array)


@settings(max_examples=80, deadline=None)
@given(durations, durations)
def test_every_event_is_in_a_bin(one: np.ndarray, other: np.ndarray) -> None:
    edges = bin_edges([one, other])
    assert np.all(np.diff(edges) > 0) and 2 <= len(edges) <= 40
    assert np.allclose(np.diff(edges), edges[1] - edges[0])
    assert np.any(np.isclose(edges, 0, atol=1e-9))
    for values in (one, other):
        shares = bin_shares(values, edges)
        assert shares is not None and shares.sum() == pytest.approx(100)
        inside = np.mean((values >= edges[0]) & (values <= edges[-1]))
        assert inside >= 0.8 or len(values) < 15
    assert bin_shares(np.zeros(0), edges) is None


def test_shares_by_hand() -> None:
    shares = bin_shares(np.array([0.1, 0.1, 0.6, 9.0]), np.array([0.0, 0.5, 1.0, 1.5]))
    assert shares is not None and shares.tolist() == [50, 25, 25]  # what is beyond counts in the last bin


def test_medians_lie_where_they_are() -> None:
    chart = histogram_chart("Gap", [("generated", [0.2, 0.4, 0.9]), ("reference", [0.5, 0.6])], note="Silence")
    assert "generated: median 0.40 s, n = 3" in chart and "reference: median 0.55 s, n = 2" in chart
    x = [float(place) for place in re.findall(r'class="median series-\d" d="M([\d.]+)', chart)]
    ticks = {float(t): float(p) for p, t in re.findall(r'<text x="([\d.]+)"[^>]*middle">([\d.]+)<', chart)}
    low, high = min(ticks), max(ticks)
    scale = (ticks[high] - ticks[low]) / (high - low)
    assert x[0] == pytest.approx(ticks[low] + scale * (0.4 - low), abs=0.2)
    assert x[1] == pytest.approx(ticks[low] + scale * (0.55 - low), abs=0.2)
    assert "None found" in histogram_chart("Gap", [("generated", []), ("reference", [])])
    assert "reference: –" in histogram_chart("Gap", [("generated", [1.0]), ("reference", [])])


def test_ranges_share_a_scale_from_zero() -> None:
    rows = [("Gap", [Estimate(5.0, 4.0, 10.0), Estimate(None)]), ("<Pause>", [Estimate(2.5), Estimate(0.0)])]
    chart = range_chart(rows, ["generated", "reference"], "per minute", "Events")
    assert [float(x) for x in re.findall(r'dot mark-0" style="left:([\d.]+)%', chart)] == [50.0, 25.0]
    assert re.findall(r'dot mark-1" style="left:([\d.]+)%', chart) == ["0.00"]
    assert "left:40.00%;width:60.00%" in chart
    assert "5.0 · –" in chart and "&lt;Pause&gt;" in chart
