"""The cheapest sequence of units where every change has a price, exactly, in O(T·K) time and O(T + K) memory.

The cost of a sequence z is ``Σ_t cost(t, z_t) + λ · (number of changes)``: Potts' model, and the objective of the
duration-penalized quantizer (Kamper & van Niekerk 2021, Towards unsupervised phone and word segmentation using
self-supervised vector-quantized neural networks; there as a segment cost of λ (1 - duration)). Let ``c(t, k)`` be the
cost of the best path that ends with unit k in frame t, and ``m(t)`` the least of them. Then

    c(t, k) = cost(t, k) + min(c(t-1, k), m(t-1) + λ)

since a path that changes does best to come from the best unit of all. So a path is known from two numbers per frame:
the unit at which the best path ends, and the frame since which it has been there. There are no other back-pointers.
Costs are summed in float64, ``m`` being subtracted after each frame, so that an hour loses no digits.

Ties: of all sequences of the same least cost, the one whose last unit is the lowest, then the last but one, and so on.

Importing this module loads numba; it is imported when it is first needed.
"""

from __future__ import annotations

from array import array

import numpy as np
import torch
from numba import njit

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.distances import NOT_FINITE


def _scan(
    table: np.ndarray,
    penalty: float,
    neighbors: int,
    costs: np.ndarray,
    starts: np.ndarray,
    first: int,
    best: np.ndarray,
    run_starts: np.ndarray,
) -> None:
    """Take the frames ``first`` … ``first + n - 1`` into the search.

    Args:
        table: costs of the frames (n, K or more), float32; columns beyond K are not read.
        penalty: of a change of unit.
        neighbors: units of a frame that may be used; K for all.
        costs: (K,) float64, of the best path to each unit; changed in place.
        starts: (K,) int64, the frame in which that path came to its unit; changed in place.
        first: number of the first frame in the utterance.
        best, run_starts: (n,) int64, filled: the end of the best path to each frame, and since when it is there.
    """
    units = costs.size
    limit, equal = np.float32(np.inf), units  # the cost of the last neighbor, and how many of that cost are allowed
    low, end = 0.0, -1  # of the frame before: the least cost, and its unit
    if first:
        end = int(np.argmin(costs))
        low = costs[end]
    for index in range(table.shape[0]):
        frame = first + index
        row = table[index, :units]
        if neighbors < units:
            limit = np.partition(row, neighbors - 1)[neighbors - 1]
            equal = neighbors - np.sum(row < limit)
        lowest, last = float("inf"), 0
        for unit in range(units):
            cost = float(row[unit])
            if neighbors < units and row[unit] >= limit:
                if row[unit] > limit or equal == 0:
                    cost = np.inf
                else:
                    equal -= 1
            if frame == 0:
                starts[unit] = 0
            else:
                stay = costs[unit] - low
                if stay > penalty or (stay == penalty and unit > end):  # of equal paths, the one over the lower unit
                    stay = penalty
                    starts[unit] = frame
                cost += stay
            costs[unit] = cost
            if cost < lowest:
                lowest, last = cost, unit
        low, end = lowest, last
        best[index] = end
        run_starts[index] = starts[end]


try:  # keep the compiled code on the disk for other processes, where there is a place to write
    _compiled_scan = njit(_scan, nogil=True, cache=True)
except RuntimeError:
    _compiled_scan = njit(_scan, nogil=True)


class PathSearch:
    """The search over one utterance, which takes in a table of frames at a time.

    Args:
        units: their number K.
        penalty: λ, of a change.
        neighbors: in each frame only so many units of the least cost may be used, of equal ones the lower; None for
            all. A change of unit is always possible, so that there is always a path.
    """

    def __init__(self, units: int, penalty: float, neighbors: int | None = None) -> None:
        self.penalty = float(penalty)
        self.neighbors = units if neighbors is None else int(neighbors)
        self._costs = np.empty(units, dtype=np.float64)
        self._starts = np.empty(units, dtype=np.int64)
        self._best, self._run_starts = array("q"), array("q")  # of each frame; arrays that grow leave no holes

    def add(self, table: torch.Tensor) -> None:
        """Take in the costs (n, K or more), float32, of the next frames, on the CPU; columns beyond K are not read.

        Raises:
            InputError: a cost is not a finite number.
        """
        costs = np.ascontiguousarray(table.numpy())
        if not np.isfinite(costs[:, : self._costs.size]).all():
            raise InputError(NOT_FINITE)
        best, run_starts = np.empty((2, len(costs)), dtype=np.int64)
        frames = len(self._best)
        _compiled_scan(costs, self.penalty, self.neighbors, self._costs, self._starts, frames, best, run_starts)
        self._best.frombytes(best.tobytes())
        self._run_starts.frombytes(run_starts.tobytes())

    def units(self) -> torch.Tensor:
        """The units (T,), int64, of the frames so far."""
        runs, lengths = [], []
        end = len(self._best)
        while end > 0:
            start = self._run_starts[end - 1]
            runs.append(self._best[end - 1])
            lengths.append(end - start)
            end = start
        return torch.from_numpy(np.repeat(np.array(runs[::-1], dtype=np.int64), lengths[::-1]))
