"""Timelines for the tests of turn-taking: random ones on a grid, and the definitions again, the slow and plain way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import strategies as st

from speechdlm_ext.metrics.turn_taking import Event

Span = tuple[float, float]
SECONDS = 13.0

# Times on a grid of 10 ms, so that a brute-force count of grid cells is exact.
grid_stretches = st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 250)), max_size=12).map(
    lambda pairs: [(a / 100, (a + length) / 100) for a, length in pairs]
)
conversations = st.lists(grid_stretches, min_size=1, max_size=3)


def spans(events: Iterable[Event]) -> list[Span]:
    return [(round(e.start, 3), round(e.end, 3)) for e in events]


def cells(stretches: Sequence[Span], length: int) -> np.ndarray:
    grid = np.zeros(length, bool)
    for start, end in stretches:
        grid[max(0, round(start * 100)) : max(0, round(end * 100))] = True
    return grid


def runs(grid: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], grid.astype(int), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def bridged(stretches: Sequence[Span], length: int, shortest: int = 20) -> np.ndarray:
    """The grid of one channel's inter-pausal units."""
    grid = cells(stretches, length)
    for a, b in runs(~grid):
        if a > 0 and b < length and b - a < shortest:
            grid[a:b] = True
    return grid


class Plain:
    """Turns, backchannels and floor transfers, each by comparing all with all; times in grid cells."""

    def __init__(self, activity: Sequence[Sequence[Span]], length: int, longest: int = 100) -> None:
        ipus = [(a, b, c) for c, own in enumerate(activity) for a, b in runs(bridged(own, length))]
        skeleton = self.join([u for u in ipus if u[1] - u[0] > longest])

        def held(unit: tuple[int, int, int], own: bool) -> bool:
            return any(t[0] <= unit[0] and unit[1] <= t[1] and (t[2] == unit[2]) is own for t in skeleton)

        self.backchannels = [u for u in ipus if u[1] - u[0] <= longest and held(u, False) and not held(u, True)]
        self.turns = self.join([u for u in ipus if u not in self.backchannels])
        floor = {
            t[:2]: t[2]
            for t in self.turns
            if not any(o[2] != t[2] and o[0] <= t[0] and t[1] <= o[1] and o[:2] != t[:2] for o in self.turns)
        }
        order = sorted(floor)
        assert all(floor[x] != floor[y] for x, y in zip(order, order[1:], strict=False))  # the floor changes hands
        self.transfers = [(x[1], y[0]) for x, y in zip(order, order[1:], strict=False)]

    @staticmethod
    def join(units: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        turns: list[tuple[int, int, int]] = []
        for channel in sorted({u[2] for u in units}):
            own: list[tuple[int, int, int]] = []
            for a, b, _ in sorted(u for u in units if u[2] == channel):
                if own and not any(u[2] != channel and u[0] < a and u[1] > own[-1][1] for u in units):
                    own[-1] = (own[-1][0], b, channel)
                else:
                    own.append((a, b, channel))
            turns += own
        return sorted(turns)


def seconds(parts: Iterable[tuple[int, ...]]) -> list[Span]:
    return sorted((p[0] / 100, p[1] / 100) for p in parts)
