"""Binarized units as rows of a vocabulary, and binarized durations as frames."""

from __future__ import annotations

import numpy as np

from speechdlm_ext.data.unit_dictionary import NO_ROW
from speechdlm_ext.data.unit_stream import UnitStream
from speechdlm_ext.errors import InputError


class NumberedStream:
    """A stream of binarized units as rows of a vocabulary, or one of durations as frames.

    Args:
        stream: what fairseq-preprocess wrote.
        numbers: what each of its dictionary's symbols stands for, ``NO_ROW`` for those that must not occur.
    """

    def __init__(self, stream: UnitStream, numbers: np.ndarray) -> None:
        self.stream, self.numbers = stream, numbers

    def read(self, start: int, end: int) -> np.ndarray:
        """The numbers of the places ``start`` to ``end``, int64.

        Raises:
            InputError: there is a symbol among them that stands for none; names file and line.
        """
        found = self.numbers[self.stream.read(start, end)]
        if len(found) and found.min() == NO_ROW:
            line = self.stream.line_of(start + int(found.argmin()))
            raise InputError(
                f"{self.stream.path}, line {line + 1}: <unk>, something that was not in the dictionary when this was "
                "binarized: binarize again with a dictionary of all that occurs (--srcdict)"
            )
        return found


def check_durations(units: UnitStream, durations: UnitStream) -> None:
    """Raise :class:`InputError` unless each line has as many durations as units."""
    both = min(len(units.sizes), len(durations.sizes))
    unequal = np.flatnonzero(units.sizes[:both] != durations.sizes[:both])
    if len(unequal):
        line = int(unequal[0])
        found, wanted = int(durations.sizes[line] - 1), int(units.sizes[line] - 1)
        raise InputError(
            f"{durations.path}, line {line + 1}: {found} durations, {wanted} units in {units.path}; {len(unequal)} "
            "line(s) differ: binarize both from the same unit file"
        )
    if len(units.sizes) != len(durations.sizes):
        raise InputError(
            f"{durations.path}: {len(durations.sizes)} lines of durations, {len(units.sizes)} of units in "
            f"{units.path}: binarize both from the same unit file"
        )
