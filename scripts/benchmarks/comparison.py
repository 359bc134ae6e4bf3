"""Two ways to do the same thing, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass
class Comparison:
    """Measurements of a baseline and of ours.

    Attributes:
        name: what was measured.
        baseline, ours: one value a round, in ``unit``.
        unit: for example ``"ms"`` or ``"frames/s"``.
        more_is_better: True for rates, False for durations and sizes.
        bound: in words, what ours must keep to, for ``keeps``.
        keeps: whether the medians (baseline, ours) keep to it.
    """

    name: str
    baseline: list[float]
    ours: list[float]
    unit: str
    more_is_better: bool = False
    bound: str = ""
    keeps: Callable[[float, float], bool] | None = None

    def medians(self) -> tuple[float, float]:
        """The medians of the baseline and of ours."""
        return statistics.median(self.baseline), statistics.median(self.ours)

    def ratio(self) -> float:
        """More than 1 where ours is better."""
        baseline, ours = self.medians()
        better, worse = (ours, baseline) if self.more_is_better else (baseline, ours)
        return better / worse if worse else float("inf")

    def row(self) -> dict[str, object]:
        """What goes into the JSON file."""
        baseline, ours = self.medians()
        spread = {"baseline": [min(self.baseline), max(self.baseline)], "ours": [min(self.ours), max(self.ours)]}
        return {"baseline": baseline, "ours": ours, "ratio": self.ratio(), "unit": self.unit, "spread": spread}

    def line(self) -> str:
        """What is printed: medians, and in brackets the smallest and the largest value."""
        shown = [
            f"{label} {statistics.median(values):.4g} {self.unit} [{min(values):.4g} … {max(values):.4g}]"
            for label, values in (("baseline", self.baseline), ("ours", self.ours))
        ]
        return f"{self.name}: {', '.join(shown)}, ratio {self.ratio():.3g}" + (f" ({self.bound})" if self.bound else "")

    def is_broken(self) -> bool:
        """Whether there is a bound and ours does not keep to it."""
        return self.keeps is not None and not self.keeps(*self.medians())


def table(comparisons: Sequence[Comparison]) -> str:
    """All of them as a table in Markdown."""
    lines = ["| work | unit | baseline | ours | ratio |", "|---|---|---|---|---|"]
    for comparison in comparisons:
        cells = [
            f"{statistics.median(values):.4g} [{min(values):.4g} … {max(values):.4g}]"
            for values in (comparison.baseline, comparison.ours)
        ]
        lines.append(f"| {comparison.name} | {comparison.unit} | {cells[0]} | {cells[1]} | {comparison.ratio():.3g} |")
    return "\n".join(lines)


def seconds(action: Callable[[], object]) -> float:
    """How long ``action`` takes, in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turns(
    baseline: Callable[[], float], ours: Callable[[], float], rounds: int, warm_up: int = 1
) -> tuple[list[float], list[float]]:
    """Measure both ``rounds`` times, alternating and changing who goes first, so that drift and load hit both alike.

    Args:
        baseline, ours: each makes one measurement and returns it.
        rounds: measurements of each that are kept.
        warm_up: rounds before those, thrown away.

    Returns:
        The values of the baseline and of ours.
    """
    values: tuple[list[float], list[float]] = ([], [])
    for number in range(-warm_up, rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for which in order:
            value = (baseline, ours)[which]()
            if number >= 0:
                values[which].append(value)
    return values
