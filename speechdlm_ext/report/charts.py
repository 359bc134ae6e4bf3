"""Charts: curves over a common axis, bars beside each other, and figures with their intervals on one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from speechdlm_ext.report.axes import Axes, ticks

__all__ = ["Curve", "Estimate", "Level", "bar_chart", "figure", "legend", "line_chart", "range_chart", "ticks"]


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


def line_chart(
    curves: Sequence[Curve], x_label: str, y_label: str, levels: Sequence[Level] = (), description: str = ""
) -> str:
    """Curves and levels with axes and a legend.

    Points that are not finite are left out. Without any point the chart says so.
    """
    curves = [Curve(c.name, [p for p in c.points if all(map(math.isfinite, p))], c.dots) for c in curves]
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points] + [level.value for level in levels]
    if not xs:
        return '<p class="empty">Nothing to draw: the log holds no figures.</p>'
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
    return figure("chart", y_label, axes.drawing(parts, description or y_label) + legend(entries))


def bar_chart(bars: Sequence[tuple[str, float | None]], unit: str, title: str, strong: int = -1, note: str = "") -> str:
    """Horizontal bars from zero; ``strong`` is the number of the one that matters. None is shown as a dash."""
    longest = max((value for _, value in bars if value is not None), default=0.0) or 1.0
    rows = "".join(
        f"<li{' class=strong' if number == strong else ''}><span>{escape(name)}</span>"
        f'<span class="bar"><i style="width:{100 * (value or 0) / longest:.1f}%"></i></span>'
        f"<b>{'–' if value is None else f'{value:.2f}'}</b></li>"
        for number, (name, value) in enumerate(bars)
    )
    below = f"<p>{escape(note)}</p>" if note else ""
    return figure("bars", f"{title} ({unit})", f"<ul>{rows}</ul>{below}")


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
