"""The cheapest sequence of units where every change has a price, exactly, in O(T·K) time and O(T + K) memory.

The cost of a sequence z is ``Σ_t cost(t, z_t) + λ · (number of changes)``: Potts' model, and the objective of the
duration-penalized quantizer (Kamper & van Niekerk 2021, Towards unsupervised phone and word segmentation using
self-supervised vector-quantized neural networks; there as a segment cost of λ (1 - duration)). Let ``c(t, k)`` be the
cost of the best path that ends with unit k in frame t, and ``m(t)`` the least of them. Then

    c(t, k) = cost(t, k) + min(c(t-1, k), m(t-1) + λ)

since whoever changes does best to come from the best unit of all. So a path is known from two numbers a frame: the
unit ``best(t)`` at which the best path ends, and the frame since which it has been there. There are no other
back-pointers.

Ties: of all sequences of the same least cost, the one whose last unit is the lowest, then the last but one, and so on.
"""

from __future__ import annotations

import torch

from speechdlm_ext.units import torch_search


class PathSearch:
    """The search over one utterance, taken in a table of frames at a time.

    Args:
        units: their number K.
        penalty: λ, of a change.
        neighbours: only the so many units that cost least in a frame may be used in it; None for all.
    """

    def __init__(self, units: int, penalty: float, neighbours: int | None = None) -> None:
        self.penalty = float(penalty)
        self.neighbours = units if neighbours is None else neighbours
        self.frames = 0
        self._costs = torch.empty(units, dtype=torch.float64)
        self._starts = torch.empty(units, dtype=torch.int64)
        self._best: list[torch.Tensor] = []
        self._run_starts: list[torch.Tensor] = []

    def add(self, table: torch.Tensor) -> None:
        """Take in the costs (n, K) of the next frames, float32."""
        best, run_starts = torch.empty(2, len(table), dtype=torch.int64)
        table = table.cpu()
        torch_search.scan(
            table, self.penalty, self.neighbours, self._costs, self._starts, self.frames, best, run_starts
        )
        self.frames += len(table)
        self._best.append(best)
        self._run_starts.append(run_starts)

    def units(self) -> torch.Tensor:
        """The units (T,), int64, of the frames so far."""
        units = torch.empty(self.frames, dtype=torch.int64)
        if not self.frames:
            return units
        best, run_starts = torch.cat(self._best).tolist(), torch.cat(self._run_starts).tolist()
        end = self.frames
        while end > 0:
            start = run_starts[end - 1]
            units[start:end] = best[end - 1]
            end = start
        return units
