"""Charts as SVG: curves over a common axis, and bars beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 36


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
    x_low, x_high = 0.0, max(max(xs), x_ticks[-1] if x_ticks[-1] <= 1.05 * max(xs) else max(xs))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1)
        up = (y - y_low) / (y_high - y_low or 1)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if tick <= x_high:
            x, _ = place(tick, y_low)
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    for number, level in enumerate(levels):
        _, y = place(x_low, level.value)
        parts.append(
            f'<line class="level level-{number}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    for number, curve in enumerate(curves):
        points = [place(x, y) for x, y in sorted(curve.points)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="curve curve-{number}" d="{path}"/>')
        if curve.dots:
            parts += [f'<circle class="curve-{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    parts.append(
        f'<text class="label" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>'
    )
    legend = "".join(f'<li class="curve-{n}">{escape(curve.name)}</li>' for n, curve in enumerate(curves))
    legend += "".join(
        f'<li class="level level-{n}">{escape(level.name)} {level.value:.2f}</li>' for n, level in enumerate(levels)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(y_label)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description or y_label)}">'
        f'{"".join(parts)}</svg><ul class="legend">{legend}</ul></figure>'
    )


def bar_chart(bars: Sequence[tuple[str, float | None]], unit: str, title: str, strong: int = -1) -> str:
    """Horizontal bars from zero; ``strong`` is the number of the one that matters. None is shown as a dash."""
    longest = max((value for _, value in bars if value is not None), default=0.0) or 1.0
    rows = "".join(
        f"<li{' class=strong' if number == strong else ''}><span>{escape(name)}</span>"
        f'<span class="bar"><i style="width:{100 * (value or 0) / longest:.1f}%"></i></span>'
        f"<b>{'–' if value is None else f'{value:.2f}'}</b></li>"
        for number, (name, value) in enumerate(bars)
    )
    return f'<figure class="bars"><figcaption>{escape(title)} ({escape(unit)})</figcaption><ul>{rows}</ul></figure>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span ``low`` to ``high``."""
    if high <= low:
        return [low, low + 1]
    rough = (high - low) / most
    scale = 10 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough)
    first = math.floor(low / step)
    return [round(n * step, 10) for n in range(first, math.ceil(high / step) + 1)]
