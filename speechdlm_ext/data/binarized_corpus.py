"""A folder of binarized data as unit language models read it: which channel, its dictionary, its durations."""

from __future__ import annotations

import os

import numpy as np
from fairseq.data import Dictionary

from speechdlm_ext.data.channel_dictionary import load_dictionary
from speechdlm_ext.data.unit_dictionary import NO_ROW, UnitDictionary, unit_number
from speechdlm_ext.data.unit_stream import UnitStream, find_binarized
from speechdlm_ext.errors import InputError

DURATIONS = "durations"


class MappedStream:
    """A stream of binarized units as rows of a vocabulary, or one of durations as frames.

    Args:
        stream: what fairseq-preprocess wrote.
        numbers: what each of its dictionary's symbols stands for, ``NO_ROW`` for those that must not occur.
    """

    def __init__(self, stream: UnitStream, numbers: np.ndarray) -> None:
        self.stream, self.numbers = stream, numbers

    def read(self, start: int, end: int) -> np.ndarray:
        """The numbers at the positions ``start`` to ``end`` of the stream, int64.

        Raises:
            InputError: a symbol among them stands for none; names file and line.
        """
        found = self.numbers[self.stream.read(start, end)]
        if len(found) and found.min() == NO_ROW:
            line = self.stream.line_of(start + int(found.argmin()))
            raise InputError(
                f"{self.stream.path}, line {line + 1}: <unk>, something that was not in the dictionary when this was "
                "binarized: binarize again with a dictionary of all that occurs (--srcdict)"
            )
        return found


class BinarizedCorpus:
    """One channel of what ``fairseq-preprocess --only-source`` or ``data_prep/binarize.py`` wrote.

    Args:
        folder: with ``dict.txt`` and ``<split>.bin`` (no language named), or ``dict.<channel>.txt`` and
            ``<split>.<channel>.bin``.
        channel: which, where there are several.

    Attributes:
        channel: its name; ``""`` where no language was named.

    Raises:
        InputError: no such folder or channel, or several channels and none named.
    """

    def __init__(self, folder: str, channel: str | None = None) -> None:
        self.folder = folder
        found = _channels(folder)
        if channel is None:
            if len(found) != 1:
                raise InputError(f"{folder}: channels {', '.join(found)}: name the one to model with --channel")
            channel = found[0]
        elif channel not in found:
            raise InputError(f"{folder}: no dict.{channel}.txt in it, only channels {', '.join(filter(None, found))}")
        self.channel = channel
        self.dictionary, self.path = self._load(channel)

    def _load(self, channel: str) -> tuple[Dictionary, str]:
        path = os.path.join(self.folder, f"dict.{channel}.txt" if channel else "dict.txt")
        return load_dictionary(path, "binarize the units with fairseq-preprocess or data_prep/binarize.py"), path

    def units(self, split: str, vocabulary: UnitDictionary) -> MappedStream:
        """The units of a split, as rows of the vocabulary."""
        stream = UnitStream(find_binarized(self.folder, split, self.channel))
        return MappedStream(stream, vocabulary.rows_of(self.dictionary, self.path))

    def durations(self, split: str) -> MappedStream:
        """The durations of a split's units, in frames.

        Raises:
            InputError: no durations, or something else than whole numbers from 1 on.
        """
        channel = f"{self.channel}.{DURATIONS}" if self.channel else DURATIONS
        dictionary, path = self._load(channel)
        frames = np.full(len(dictionary), NO_ROW, dtype=np.int64)
        frames[dictionary.eos()] = 0
        for index in range(dictionary.nspecial, len(dictionary)):
            symbol = dictionary.symbols[index]
            number = unit_number(symbol)
            if number:
                frames[index] = number
            elif not symbol.startswith("madeupword"):
                raise InputError(f"{path}: {symbol} is not a duration: whole numbers of frames from 1 on are expected")
        return MappedStream(UnitStream(find_binarized(self.folder, split, channel)), frames)


def check_durations(units: UnitStream, durations: UnitStream) -> None:
    """Raise :class:`InputError` unless each line has as many durations as units."""
    both = min(len(units.sizes), len(durations.sizes))
    unequal = np.flatnonzero(units.sizes[:both] != durations.sizes[:both])
    if len(unequal):
        line = int(unequal[0])
        found, expected = int(durations.sizes[line] - 1), int(units.sizes[line] - 1)
        raise InputError(
            f"{durations.path}, line {line + 1}: {found} durations, {expected} units in {units.path}; {len(unequal)} "
            "line(s) differ: binarize both from the same unit file"
        )
    if len(units.sizes) != len(durations.sizes):
        raise InputError(
            f"{durations.path}: {len(durations.sizes)} lines of durations, {len(units.sizes)} of units in "
            f"{units.path}: binarize both from the same unit file"
        )


def _channels(folder: str) -> list[str]:
    """Channels of units in a folder, ``""`` for one without a name."""
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder of binarized data")
    names = sorted(name[5:-4] for name in os.listdir(folder) if name.startswith("dict.") and name.endswith(".txt"))
    found = [name for name in names if name != DURATIONS and not name.endswith(f".{DURATIONS}")]
    if not found:
        raise InputError(f"{folder}: no dict.txt or dict.<channel>.txt in it; binarize the units first")
    return found
