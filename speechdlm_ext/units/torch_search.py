"""The search of the duration-penalized quantizer in plain PyTorch: what runs where numba cannot."""

from __future__ import annotations

import torch


def scan(
    table: torch.Tensor,
    penalty: float,
    neighbours: int,
    costs: torch.Tensor,
    starts: torch.Tensor,
    first: int,
    best: torch.Tensor,
    run_starts: torch.Tensor,
) -> None:
    """Take the frames ``first`` … ``first + n - 1`` into the search; see :mod:`speechdlm_ext.units.search`.

    Args:
        table: costs of the frames (n, K), float32.
        penalty: of a change of unit.
        neighbours: units of a frame that may be used; K for all.
        costs: (K,) float64, of the best path to each unit; changed in place.
        starts: (K,) int64, the frame in which that path came to its unit; changed in place.
        first: number of the first frame in the utterance.
        best, run_starts: (n,) int64, filled: the end of the best path to each frame, and since when it is there.
    """
    rows = table.to(torch.float64)
    if neighbours < table.shape[1]:
        # A stable sort, so that of equally distant units the lower ones are the nearer.
        order = table.sort(dim=1, stable=True).indices[:, neighbours:]
        rows.scatter_(1, order, float("inf"))
    units = torch.arange(table.shape[1])
    for index, row in enumerate(rows):
        if first + index == 0:
            costs.copy_(row)
            starts.zero_()
        else:
            lowest = int(best[index - 1] if index else costs.argmin())
            relative = costs - costs[lowest]
            changes = (relative > penalty) | ((relative == penalty) & (units > lowest))
            starts.masked_fill_(changes, first + index)
            torch.add(relative.clamp_max_(penalty), row, out=costs)
        end = costs.argmin()
        best[index] = end
        run_starts[index] = starts[end]
