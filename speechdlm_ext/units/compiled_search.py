"""The search of the duration-penalized quantizer, compiled by numba; imported when it is first needed.

The loops are written so that LLVM makes vector instructions of them: no branches, slices that begin at 0, and least
values by eight running minima, because it does not reorder comparisons of floats. Nothing that rounds is reordered
either, so that the numbers are those of torch_search.py to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile at the first call, and keep the result on disk for other processes where there is a place to write."""
    try:
        return njit(function, nogil=True, cache=True, **options)
    except RuntimeError:  # neither beside this file nor in the user's home
        return njit(function, nogil=True, **options)


def _compiled_count(function: Callable[..., Any]) -> Any:
    """The same where all sums are of ones, in any order."""
    return _compiled(function, fastmath={"reassoc"})


@_compiled
def _step_below(costs: np.ndarray, starts: np.ndarray, row: np.ndarray, low: float, penalty: float, frame: int) -> None:
    """Take a frame into the paths to units up to the best one: these stay where changing costs the same."""
    for unit in range(costs.size):
        stay = costs[unit] - low
        changes = stay > penalty
        starts[unit] = frame if changes else starts[unit]
        costs[unit] = (penalty if changes else stay) + np.float64(row[unit])


@_compiled
def _step_above(costs: np.ndarray, starts: np.ndarray, row: np.ndarray, low: float, penalty: float, frame: int) -> None:
    """The same for units above the best one: these change where staying costs the same."""
    for unit in range(costs.size):
        stay = costs[unit] - low
        changes = stay >= penalty
        starts[unit] = frame if changes else starts[unit]
        costs[unit] = (penalty if changes else stay) + np.float64(row[unit])


@_compiled
def _lowest(values: np.ndarray) -> float:
    """The least value."""
    a = b = c = d = e = f = g = h = values[0]
    whole = values.size // 8 * 8
    for place in range(0, whole, 8):
        a = min(a, values[place])
        b = min(b, values[place + 1])
        c = min(c, values[place + 2])
        d = min(d, values[place + 3])
        e = min(e, values[place + 4])
        f = min(f, values[place + 5])
        g = min(g, values[place + 6])
        h = min(h, values[place + 7])
    for place in range(whole, values.size):
        a = min(a, values[place])
    return min(min(min(a, b), min(c, d)), min(min(e, f), min(g, h)))


@_compiled
def _place(values: np.ndarray, value: float) -> int:
    """The first place of a value that is there."""
    first = values.size
    for place in range(values.size):
        here = place if values[place] == value else values.size
        first = min(first, here)
    return first


@_compiled_count
def _count(values: np.ndarray, limit: np.float32) -> np.float32:
    """How many are not above ``limit``."""
    count = np.float32(0)
    for place in range(values.size):
        count += np.float32(1) if values[place] <= limit else np.float32(0)
    return count


@_compiled
def _keep_nearest(row: np.ndarray, count: int, guess: np.float32, nearest: np.ndarray) -> np.float32:
    """Copy the ``count`` lowest costs, of equal ones those of the lowest units; the others become infinite.

    The limit is looked for between a value that is too low and one that is not, by halves and by interpolation in
    turns, beginning with ``guess``; returned is what was found.
    """
    below = _lowest(row)
    fewer = _count(row, below)
    limit = below
    reached = fewer
    if fewer < count:
        for unit in range(count):
            limit = max(limit, row[unit])
        reached = _count(row, limit)
    else:
        fewer = np.float32(0)
    probe = guess
    halving = False
    while reached > count:
        if not below < probe < limit:
            probe = np.float32(0.5 * (np.float64(below) + np.float64(limit)))
            if not below < probe < limit:
                break
        found = _count(row, probe)
        if found < count:
            below = probe
            fewer = found
        else:
            limit = probe
            reached = found
        halving = not halving
        share = 0.5 if halving else (count - fewer) / (reached - fewer)
        probe = np.float32(below + share * (np.float64(limit) - below))
    if reached > count:  # several that are equal to the limit
        left = count - fewer
        for unit in range(row.size):
            equal = row[unit] == limit
            nearest[unit] = row[unit] if row[unit] < limit or (equal and left > 0) else np.float32(np.inf)
            left -= equal
    else:
        for unit in range(row.size):
            nearest[unit] = row[unit] if row[unit] <= limit else np.float32(np.inf)
    return limit


@_compiled
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
    """What ``torch_search.scan`` does, with the same numbers."""
    units = costs.size
    nearest = np.empty(units, np.float32)
    limit = np.float32(0)
    low = _lowest(costs) if first else 0.0
    end = _place(costs, low) if first else 0
    for index in range(table.shape[0]):
        row = table[index, :units]
        if neighbours < units:
            limit = _keep_nearest(row, neighbours, limit, nearest)
            row = nearest
        if first + index:
            above = end + 1
            _step_below(costs[:above], starts[:above], row[:above], low, penalty, first + index)
            _step_above(costs[above:], starts[above:], row[above:], low, penalty, first + index)
        else:
            costs[:] = row
            starts[:] = 0
        low = _lowest(costs)
        end = _place(costs, low)
        best[index] = end
        run_starts[index] = starts[end]
