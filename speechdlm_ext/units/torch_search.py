"""The search of the duration-penalized quantizer in plain PyTorch: what runs where numba cannot."""

from __future__ import annotations

import numpy as np
import torch


def scan(
    table: np.ndarray,
    penalty: float,
    neighbours: int,
    costs: np.ndarray,
    starts: np.ndarray,
    first: int,
    best: np.ndarray,
    run_starts: np.ndarray,
) -> None:
    """Take the frames ``first`` … ``first + n - 1`` into the search; see :mod:`speechdlm_ext.units.search`.

    Args:
        table: costs of the frames (n, K or more), float32; what is beyond K is not looked at.
        penalty: of a change of unit.
        neighbours: units of a frame that may be used; K for all.
        costs: (K,) float64, of the best path to each unit; changed in place.
        starts: (K,) int64, the frame in which that path came to its unit; changed in place.
        first: number of the first frame in the utterance.
        best, run_starts: (n,) int64, filled: the end of the best path to each frame, and since when it is there.
    """
    rows = torch.from_numpy(table[:, : costs.size]).to(torch.float64)
    if neighbours < rows.shape[1]:
        # A stable sort, so that of equally distant units the lower ones are the nearer.
        order = rows.sort(dim=1, stable=True).indices[:, neighbours:]
        rows.scatter_(1, order, float("inf"))
    paths, since = torch.from_numpy(costs), torch.from_numpy(starts)
    units = torch.arange(rows.shape[1])
    lowest = int(paths.argmin()) if first else 0
    for index, row in enumerate(rows):
        if first + index:
            stay = paths - paths[lowest]
            # Of equal paths, the one over the lower unit.
            changes = (stay > penalty) | ((stay == penalty) & (units > lowest))
            since.masked_fill_(changes, first + index)
            torch.add(stay.clamp_max_(penalty), row, out=paths)
        else:
            paths.copy_(row)
            since.zero_()
        lowest = int(paths.argmin())
        best[index] = lowest
        run_starts[index] = since[lowest]
