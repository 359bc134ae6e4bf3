"""The cheapest sequence of units where every change has a price, exactly, in O(T·K) time and O(T + K) memory.

The cost of a sequence z is ``Σ_t cost(t, z_t) + λ · (number of changes)``: Potts' model, and the objective of the
duration-penalized quantizer (Kamper & van Niekerk 2021, Towards unsupervised phone and word segmentation using
self-supervised vector-quantized neural networks; there as a segment cost of λ (1 - duration)). Let ``c(t, k)`` be the
cost of the best path that ends with unit k in frame t, and ``m(t)`` the least of them. Then

    c(t, k) = cost(t, k) + min(c(t-1, k), m(t-1) + λ)

since whoever changes does best to come from the best unit of all. So a path is known from two numbers a frame: the
unit ``best(t)`` at which the best path ends, and the frame since which it has been there. There are no other
back-pointers. Costs are summed in float64, ``m`` being taken out after each frame, so that an hour loses no digits.

Ties: of all sequences of the same least cost, the one whose last unit is the lowest, then the last but one, and so on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

Scan = Callable[..., None]


@cache
def fastest_scan() -> Scan:
    """The compiled loop over frames, or the one in PyTorch, which gives the same units, where numba does not work."""
    try:
        from speechdlm_ext.units.compiled_search import scan
    except ImportError as error:  # numba says this, too, of a numpy that is too new for it
        from speechdlm_ext.units.torch_search import scan

        warnings.warn(f"numba cannot be used ({error}): units are searched for without it, slowly", stacklevel=2)
    return scan


class PathSearch:
    """The search over one utterance, taken in a table of frames at a time.

    Args:
        units: their number K.
        penalty: λ, of a change.
        neighbours: only the so many units that cost least in a frame may be used in it, of equal ones the lower; None
            for all. A change of unit is always possible, so that there is always a path.
        scan: the loop over frames; the fastest, if not given.
    """

    def __init__(self, units: int, penalty: float, neighbours: int | None = None, scan: Scan | None = None) -> None:
        self.penalty = float(penalty)
        self.neighbours = units if neighbours is None else int(neighbours)
        self.frames = 0
        self.released = 0
        self._scan = scan or fastest_scan()
        self._costs = np.empty(units, dtype=np.float64)
        self._starts = np.empty(units, dtype=np.int64)
        # Of the frames that have not been released.
        self._best: list[int] = []
        self._run_starts: list[int] = []

    def add(self, table: torch.Tensor) -> None:
        """Take in the costs (n, K), float32, of the next frames; columns beyond K are not looked at."""
        best, run_starts = np.empty((2, len(table)), dtype=np.int64)
        costs = np.ascontiguousarray(table.cpu().numpy())
        self._scan(costs, self.penalty, self.neighbours, self._costs, self._starts, self.frames, best, run_starts)
        self.frames += len(table)
        self._best += best.tolist()
        self._run_starts += run_starts.tolist()

    def units(self) -> torch.Tensor:
        """The units, int64, of the frames that have not been released, on the path that is the best by now."""
        best, run_starts, released = self._best, self._run_starts, self.released
        runs, lengths = [], []
        end = self.frames
        while end > released:
            start = max(run_starts[end - 1 - released], released)
            runs.append(best[end - 1 - released])
            lengths.append(end - start)
            end = start
        return torch.from_numpy(np.repeat(np.array(runs[::-1], dtype=np.int64), lengths[::-1]))

    def agreed(self) -> int:
        """The number of frames, from the first of the utterance, whose units no further frame can change."""
        if not self.frames:
            return 0
        # The other paths end here: in the next frame, their units are come to from the best one.
        above = self._costs - self._costs.min()
        ties = (above == self.penalty) & (np.arange(len(above)) <= above.argmin())
        alive = np.flatnonzero((above < self.penalty) | ties)
        starts = self._starts[alive]
        # Runs on which paths end, (start, unit), and the last frame that all paths over the run have in common.
        runs: dict[tuple[int, int], int] = {}
        for start, count in zip(*(found.tolist() for found in np.unique(starts, return_counts=True)), strict=True):
            if count == 1:
                runs[start, int(alive[starts == start][0])] = self.frames - 1
            elif start <= self.released:
                return self.released
            else:  # paths that part in this frame: what they have in common came before
                self._join(runs, start - 1)
        while len(runs) > 1:
            latest = max(runs)
            if latest[0] <= self.released:
                return self.released
            del runs[latest]
            self._join(runs, latest[0] - 1)
        return max(runs.values()) + 1

    def release(self, end: int) -> torch.Tensor:
        """The units of the frames not released before frame ``end``, which stay as they are whatever comes.

        Paths that had other units there are given up; where all agree there is none.
        """
        units = self.units()[: end - self.released]
        if not len(units):
            return units
        last = end - 1
        for start in np.unique(self._starts).tolist():
            here = self._starts == start
            if start <= last:
                here[units[-1]] = False
                self._costs[here] = np.inf
            elif self._unit_at(last, start - 1) != int(units[-1]):
                self._costs[here] = np.inf
        del self._best[: end - self.released], self._run_starts[: end - self.released]
        self.released = end
        return units

    def _tip(self, frame: int) -> tuple[int, int]:
        """The unit at which the best path to a frame ends, and since when it is there."""
        return self._best[frame - self.released], self._run_starts[frame - self.released]

    def _join(self, runs: dict[tuple[int, int], int], frame: int) -> None:
        unit, start = self._tip(frame)
        runs[start, unit] = min(frame, runs.get((start, unit), frame))

    def _unit_at(self, frame: int, end: int) -> int:
        """The unit in ``frame`` on the best path to ``end``."""
        unit, start = self._tip(end)
        while start > frame:
            unit, start = self._tip(start - 1)
        return unit
