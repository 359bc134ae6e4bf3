"""Copies of recordings at other speeds, for training on little audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechdlm_ext.errors import InputError


def with_speeds(rows: Sequence[Mapping[str, Any]], speeds: Sequence[float]) -> Sequence[Mapping[str, Any]]:
    """The rows of a manifest, and after them copies at other speeds.

    Speed perturbation (Ko et al. 2015, Audio Augmentation for Speech Recognition): tempo and pitch change together, so
    that a model sees more voices than were recorded.

    Args:
        rows: of a manifest.
        speeds: factors; above 1 is faster. 1 itself adds nothing.

    Returns:
        The rows, then for each speed one copy of each, with ``copy_of`` (the original's id) and ``speed``.

    Raises:
        InputError: a factor that is not between 0.5 and 2, or a copy's id that another recording has.
    """
    for speed in speeds:
        if not 0.5 <= speed <= 2:
            raise InputError(f"--speeds {speed:g}: factors between 0.5 and 2 are expected, for example 0.9 1.1")
    if not set(speeds) - {1}:
        return rows
    copies = [
        {**row, "id": f"{row['id']}-speed{speed:g}", "copy_of": row["id"], "speed": speed}
        for speed in dict.fromkeys(speeds)
        if speed != 1
        for row in rows
    ]
    taken = {copy["id"] for copy in copies} & {row["id"] for row in rows}
    if taken:
        raise InputError(f"--speeds: {min(taken)} is the id of another recording in the manifest: rename that one")
    return [*map(dict, rows), *copies]
