"""Distributions of durations, generated over reference, on one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.report.axes import Axes, ticks
from speechdlm_ext.report.charts import figure, legend

_BINS = 24
_SHOWN = 0.93  # share of each series' durations that the axis must hold; the rest is in the outermost bins


def histogram_chart(title: str, series: Sequence[tuple[str, ArrayLike]], unit: str = "s", note: str = "") -> str:
    """Shares of durations in equal bins, the first series filled, the others as lines; medians as ticks on the axis.

    Args:
        title: plain text.
        series: name and durations (N,) of each; those without any are named in the legend with a dash.
        unit: of the durations.
        note: one line that says what the durations are of.
    """
    columns = [(name, np.asarray(values, np.float64)) for name, values in series]
    if not any(len(values) for _, values in columns):
        return figure("chart small", title, '<p class="empty">None found.</p>', note)
    edges = bin_edges([values for _, values in columns if len(values)])
    shares = [bin_shares(values, edges) for _, values in columns]
    beyond = any((values > edges[-1]).any() for _, values in columns)
    y_ticks = ticks(0.0, max(float(s.max()) for s in shares if s is not None), 4)
    axes = Axes(edges[0], edges[-1], 0.0, y_ticks[-1], 360, 190, 34, 10, 10, 34)
    parts = list(axes.grid(ticks(edges[0], edges[-1], 5), y_ticks, f"{unit}, and more" if beyond else unit))
    for number, ((_, values), share) in enumerate(zip(columns, shares, strict=True)):
        if share is not None:
            parts.append(_steps(axes, edges, share, number))
            parts.append(_median(axes, float(np.clip(np.median(values), edges[0], edges[-1])), number))
    words = [f"{name}: {_words(values, unit)}" for name, values in columns]
    described = f"{title}, per cent of the events by length. " + "; ".join(words)
    entries = [(f"series-{number}", text) for number, text in enumerate(words)]
    return figure("chart small", title, axes.drawing(parts, described) + legend(entries), note)


def bin_edges(series: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Edges of equal bins of round width that hold all but the longest durations of every series; 0 is an edge."""
    low = min(0.0, *(float(np.quantile(values, 1 - _SHOWN)) for values in series))
    high = max(1e-3, *(float(np.quantile(values, _SHOWN)) for values in series))
    marks = ticks(low, high, _BINS)
    return np.array(marks)


def bin_shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Per cent of the values in each bin, those outside counted in the outermost; None without any."""
    if not len(values):
        return None
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return 100 * counts / len(values)


def _steps(axes: Axes, edges: NDArray[np.float64], share: NDArray[np.float64], number: int) -> str:
    corners = [axes.place(edges[0], 0.0)]
    for left, right, height in zip(edges[:-1], edges[1:], share, strict=True):
        corners += [axes.place(left, height), axes.place(right, height)]
    corners.append(axes.place(edges[-1], 0.0))
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    return f'<path class="steps-line series-{number}" d="{path}"/>'


def _median(axes: Axes, value: float, number: int) -> str:
    x, y = axes.place(value, 0.0)
    return f'<path class="median series-{number}" d="M{x:.1f} {y - 1:.1f}l-5 8h10z"/>'


def _words(values: NDArray[np.float64], unit: str) -> str:
    return f"median {np.median(values):.2f} {unit}, n = {len(values):,}" if len(values) else "–"
