"""Grids of options: the words of a command for each combination of values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from speechdlm_ext.errors import InputError


def grid_cells(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination, the last option changing fastest, as hydra's ``--multirun`` orders them.

    Args:
        overrides: ``name=value``, or ``name=value,value,…``; commas within brackets and quotes separate nothing.

    Raises:
        InputError: one of them is not of this form, or has an empty value.
    """
    choices = []
    for override in overrides:
        name, equals, text = override.partition("=")
        values = _split(text)
        if not equals or not name or not all(values):
            raise InputError(f"{override!r}: expected NAME=VALUE, or NAME=VALUE,VALUE for several")
        choices.append([f"{name}={value}" for value in values])
    return [list(cell) for cell in itertools.product(*choices)]


def cell_name(cell: Sequence[str], overrides: Sequence[str]) -> str:
    """A folder's name for a cell: the values of those options that have several."""
    varied = [one for one, override in zip(cell, overrides, strict=True) if one != override]
    words = [one.rpartition("=")[0].rpartition(".")[2] + "_" + one.rpartition("=")[2] for one in varied]
    return "-".join(word.replace("/", "_") for word in words) or "all"


def _split(text: str) -> list[str]:
    """The values of a list, at its commas outside of brackets and quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[({") - (letter in "])}")
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    return values
