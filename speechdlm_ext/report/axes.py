"""Axes of a chart as SVG: round numbers, a grid, and where a point lies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape


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
