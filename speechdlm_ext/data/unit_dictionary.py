"""The vocabulary of unit language models, and how fairseq's dictionaries map onto it. Nothing else knows about that.

A model over a codebook of K units has K + 1 rows, as the published ones do:

====================  ===========  ======================================================================
in fairseq's files    row          meaning
====================  ===========  ======================================================================
``</s>`` and ``<s>``  0            BOS before the first unit of an utterance; the same row is EOS after the last
                                   one, and ends generation
unit ``i``            ``i + 1``    whatever number fairseq's dictionary, which is ordered by frequency, gave it
``<pad>``             none         the id K + 1 stands for it in batches, and in targets for what is not trained on
``<unk>``             none         an error: a unit that the dictionary lacks has no likelihood
``madeupwordNNNN``    none         fillers of fairseq-preprocess, which occur in no data
====================  ===========  ======================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from torch import Tensor

from speechdlm_ext.errors import InputError

NO_ROW = -1


def unit_number(symbol: str) -> int | None:
    """The unit that a symbol of a dictionary stands for; ``None`` for others than numbers."""
    return int(symbol) if symbol.isdecimal() and symbol.isascii() else None


class UnitDictionary:
    """The K + 1 rows of a unit language model, in place of a :class:`fairseq.data.Dictionary` in fairseq's commands.

    Args:
        units: size K of the codebook.

    Raises:
        InputError: a size below 1.
    """

    nspecial = 1
    channels = ("units",)  # in errors of decoding, which numbers channels

    def __init__(self, units: int) -> None:
        if units < 1:
            raise InputError(f"--units {units}: a codebook has one unit or more")
        self.units = units

    @classmethod
    def of(cls, dictionary: Dictionary, where: str, units: int | None = None) -> UnitDictionary:
        """The rows for the units of a dictionary of fairseq.

        Args:
            where: the dictionary's file, to be named in errors.
            units: size of the codebook; by default one more than the greatest unit that occurs.

        Raises:
            InputError: a symbol that is no unit, or a unit beyond ``units``.
        """
        numbers = [_number(dictionary, i, where) for i in range(dictionary.nspecial, len(dictionary))]
        greatest = max((n for n in numbers if n is not None), default=-1)
        made = cls(greatest + 1 if units is None else units)
        made.rows_of(dictionary, where)
        return made

    def rows_of(self, dictionary: Dictionary, where: str) -> np.ndarray:
        """The row of each symbol of a dictionary of fairseq, int64 ``(len(dictionary),)``; ``NO_ROW`` where none is.

        Raises:
            InputError: a symbol that is no unit, or a unit beyond the codebook.
        """
        rows = np.full(len(dictionary), NO_ROW, dtype=np.int64)
        rows[[dictionary.bos(), dictionary.eos()]] = self.bos()
        for index in range(dictionary.nspecial, len(dictionary)):
            number = _number(dictionary, index, where)
            if number is None:
                continue
            if number >= self.units:
                raise InputError(
                    f"{where}: unit {number} is outside the vocabulary, the codebook has {self.units} units (0 to "
                    f"{self.units - 1}): were the units made with another codebook? (--units)"
                )
            rows[index] = number + 1
        return rows

    def __len__(self) -> int:
        """Rows of the model: K + 1."""
        return self.units + 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitDictionary) and self.units == other.units

    def __getitem__(self, row: int) -> str:
        if row == self.bos():
            return "</s>"
        return str(row - 1) if row < len(self) else {self.pad(): "<pad>", self.unk(): "<unk>"}[row]

    def bos(self) -> int:
        """The row before the first unit."""
        return 0

    def eos(self) -> int:
        """The row after the last unit: the same as :meth:`bos`."""
        return 0

    def pad(self) -> int:
        """Stands for padding; the model has no such row."""
        return self.units + 1

    def unk(self) -> int:
        """Stands for an open unit; the model has no such row."""
        return self.units + 2

    def emittable(self) -> Tensor:
        """True for the rows that generation may emit: the units, ``(1, K + 1)`` bool."""
        return torch.arange(len(self)).unsqueeze(0) != self.eos()

    def string(self, tensor: Any, *unused: Any, **unused_by_name: Any) -> str:
        """Rows to units separated by blanks; BOS, EOS and padding are skipped."""
        rows = torch.as_tensor(tensor).flatten().tolist()
        return " ".join(str(row - 1) for row in rows if 0 < row < len(self))

    def encode_line(self, line: str, where: str = "the line", **unused: Any) -> Tensor:
        """Units separated by blanks to rows ``(T,)``.

        Raises:
            InputError: a word that is no unit of the codebook.
        """
        numbers = []
        for word in line.split():
            number = unit_number(word)
            if number is None or number >= self.units:
                raise InputError(f"{where}: {word} is no unit of this vocabulary, which has 0 to {self.units - 1}")
            numbers.append(number + 1)
        return torch.tensor(numbers, dtype=torch.long)


def _number(dictionary: Dictionary, index: int, where: str) -> int | None:
    """The unit of a symbol; ``None`` for a filler."""
    symbol: str = dictionary.symbols[index]
    number = unit_number(symbol)
    if number is None and not symbol.startswith("madeupword"):
        raise InputError(f"{where}: {symbol} is no unit: whole numbers from 0 on are expected, as in 7 376 376")
    return number
