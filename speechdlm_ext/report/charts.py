"""Charts as SVG and HTML: curves over a common axis, histograms, and figures with their intervals on one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BINS = 24
_SHOWN = 0.93  # fraction of each series' values that the axis must hold; the rest is in the outermost bins


@dataclass(frozen=True)
class Axes:
    """A drawing of ``width`` by ``height`` with the ranges of both axes; margins leave room for their numbers."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: int = 640
    height: int = 260
    left: int = 44
    right: int = 12
    top: int = 12
    bottom: int = 36

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the drawing."""
        across = (x - self.x_low) / (self.x_high - self.x_low or 1)
        up = (y - self.y_low) / (self.y_high - self.y_low or 1)
        inner = self.height - self.top - self.bottom
        return self.left + across * (self.width - self.left - self.right), self.height - self.bottom - up * inner

    def line_across(self, y: float, style: str) -> str:
        """A horizontal line at a value."""
        _, place = self.place(self.x_low, y)
        return (
            f'<line class="{style}" x1="{self.left}" x2="{self.width - self.right}" y1="{place:.1f}" y2="{place:.1f}"/>'
        )

    def grid(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> Iterator[str]:
        """Grid lines with their numbers, and the name of the x axis."""
        for tick in y_ticks:
            _, y = self.place(self.x_low, tick)
            yield self.line_across(tick, "grid")
            yield f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in x_ticks:
            if self.x_low <= tick <= self.x_high:
                x, _ = self.place(tick, self.y_low)
                yield f'<text x="{x:.1f}" y="{self.height - self.bottom + 18}" text-anchor="middle">{tick:g}</text>'
        yield (
            f'<text class="label" x="{self.width - self.right}" y="{self.height - 4}" text-anchor="end">'
            f"{escape(x_label)}</text>"
        )

    def drawing(self, parts: Sequence[str], description: str) -> str:
        """The parts as an image with a name."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(description)}">'
            f"{''.join(parts)}</svg>"
        )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span ``low`` to ``high``."""
    if high <= low:
        return [low, low + 1]
    rough = (high - low) / most
    scale = 10 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough)
    first = math.floor(low / step)
    return [round(n * step, 10) for n in range(first, math.ceil(high / step) + 1)]


@dataclass(frozen=True)
class Curve:
    """A named curve: points (x, y); ``dots`` marks each point."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True)
class Level:
    """A named horizontal line, for what the curves are compared with."""

    name: str
    value: float


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


def line_chart(curves: Sequence[Curve], x_label: str, y_label: str, levels: Sequence[Level] = ()) -> str:
    """Curves and levels with axes and a legend.

    Points that are not finite are skipped. Without any point the chart says so.
    """
    curves = [Curve(c.name, [p for p in c.points if all(map(math.isfinite, p))], c.dots) for c in curves]
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points] + [level.value for level in levels]
    if not xs:
        return '<p class="empty">No data.</p>'
    x_ticks, y_ticks = ticks(0, max(xs)), ticks(min(ys), max(ys))
    x_high = max(max(xs), x_ticks[-1] if x_ticks[-1] <= 1.05 * max(xs) else max(xs))
    axes = Axes(0.0, x_high, min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)))
    parts = list(axes.grid(x_ticks, y_ticks, x_label))
    parts += [axes.line_across(level.value, f"level level-{number}") for number, level in enumerate(levels)]
    for number, curve in enumerate(curves):
        points = [axes.place(x, y) for x, y in sorted(curve.points)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="curve curve-{number}" d="{path}"/>')
        if curve.dots:
            parts += [f'<circle class="curve-{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    entries = [(f"curve-{number}", curve.name) for number, curve in enumerate(curves)]
    entries += [(f"level level-{number}", f"{level.name} {level.value:.2f}") for number, level in enumerate(levels)]
    return figure("chart", y_label, axes.drawing(parts, y_label) + legend(entries))


def range_chart(rows: Sequence[tuple[str, Sequence[Estimate]]], names: Sequence[str], unit: str, title: str) -> str:
    """For each row one dot for each of ``names`` (2 at most), with its interval as a line, all on one scale from zero.

    None is shown as a dash.
    """
    values = [v for _, row in rows for e in row for v in (e.value, e.high) if v is not None and math.isfinite(v)]
    top = max(values, default=0.0) or 1.0
    items = []
    for label, row in rows:
        marks = "".join(_mark(number, estimate, top) for number, estimate in enumerate(row))
        figures = " · ".join("–" if e.value is None else f"{e.value:.1f}" for e in row)
        items.append(f'<li><span>{escape(label)}</span><span class="range">{marks}</span><b>{figures}</b></li>')
    entries = [(f"mark-{number}", name) for number, name in enumerate(names)]
    return figure("bars ranges", f"{title} ({unit})", f"<ul>{''.join(items)}</ul>{legend(entries)}")


def _mark(number: int, estimate: Estimate, top: float) -> str:
    if estimate.value is None:
        return ""
    left = 100 * estimate.value / top
    line = ""
    if estimate.low is not None and estimate.high is not None:
        low, high = 100 * max(0.0, estimate.low) / top, 100 * estimate.high / top
        line = f'<i class="line line-{number}" style="left:{low:.2f}%;width:{high - low:.2f}%"></i>'
    return line + f'<i class="dot mark-{number}" style="left:{left:.2f}%"></i>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(class, name) of each thing drawn."""
    items = "".join(f'<li class="{style}">{escape(name)}</li>' for style, name in entries)
    return f'<ul class="legend">{items}</ul>' if entries else ""


def figure(style: str, title: str, body: str, note: str = "") -> str:
    """A figure with its title, and a fainter line below it."""
    below = f"<small>{escape(note)}</small>" if note else ""
    return f'<figure class="{style}"><figcaption>{escape(title)}{below}</figcaption>{body}</figure>'


def histogram_chart(title: str, series: Sequence[tuple[str, ArrayLike]], note: str = "") -> str:
    """Histogram of durations in per cent, the first series filled, the others as lines; triangles mark the medians.

    Args:
        title: plain text.
        series: name and durations (N,) of each; one without any is a dash in the legend.
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
    parts = list(axes.grid(ticks(edges[0], edges[-1], 5), y_ticks, "s or more" if beyond else "s"))
    for number, ((_, values), share) in enumerate(zip(columns, shares, strict=True)):
        if share is not None:
            parts.append(_steps(axes, edges, share, number))
            parts.append(_median(axes, float(np.clip(np.median(values), edges[0], edges[-1])), number))
    words = [f"{name}: {_words(values)}" for name, values in columns]
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


def _words(values: NDArray[np.float64]) -> str:
    return f"median {np.median(values):.2f} s, n = {len(values):,}" if len(values) else "–"
