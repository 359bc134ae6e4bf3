"""fairseq.libnat, which is built only where torch is at hand while fairseq is compiled: the same in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechdlm_ext.compat.imports import supply_module
from speechdlm_ext.compat.repair import Repair


def edit_path(source: Sequence[int], target: Sequence[int], empty: int) -> list[list[int]]:
    """How ``source`` becomes ``target`` by the fewest insertions and deletions (Gu et al. 2019, section 3).

    Args:
        source: symbols.
        target: symbols.
        empty: what stands where nothing is inserted or deleted.

    Returns:
        ``len(source) + 2`` lists: what is inserted before each symbol of the source and after the last one, and as the
        last list a 1 for each symbol of the source that is deleted and a 0 for each that is kept. Of equally short
        ways it is the one that, read from the end, inserts before it deletes and deletes before it keeps.
    """
    if not source:
        return [list(target), []]
    rows, columns = len(source), len(target)
    cost = [[row + column for column in range(columns + 1)] for row in range(rows + 1)]
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            cost[row][column] = 1 + min(cost[row - 1][column], cost[row][column - 1])
            if source[row - 1] == target[column - 1]:
                cost[row][column] = min(cost[row][column], cost[row - 1][column - 1])
    inserted: list[list[int]] = [[] for _ in range(rows + 1)]
    deleted = []
    row, column = rows, columns
    while row or column:
        if column and cost[row][column - 1] < cost[row][column]:
            column -= 1
            inserted[row].append(target[column])
        else:
            is_deletion = cost[row - 1][column] < cost[row][column]
            row, column = row - 1, column - (not is_deletion)
            deleted.append(int(is_deletion))
    return [part[::-1] or [empty] for part in (*inserted, deleted)]


def _fill(module: Any) -> None:
    module.suggested_ed2_path = lambda sources, targets, empty: [
        edit_path(source, target, empty) for source, target in zip(sources, targets, strict=True)
    ]


REPAIRS = [
    Repair(
        name="libnat",
        package="fairseq",
        fault="ERROR: missing libnat (training of Levenshtein and insertion transformers)",
        versions="all; where fairseq was built without torch",
        at_once=lambda: supply_module("fairseq.libnat", _fill),
    ),
]
