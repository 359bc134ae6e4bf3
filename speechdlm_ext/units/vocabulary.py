"""The units of a channel and their ids, as fairseq's dictionaries number them, without waiting for fairseq."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

from speechdlm_ext.errors import InputError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
EOS, UNK = 2, 3


class Vocabulary:
    """Units and their ids: four special symbols, then the lines of a dictionary file from 4 on.

    Args:
        counts: units in the order of their ids, with how often each occurs.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        self.ids = {unit: number for number, unit in enumerate((*SPECIAL, *self.counts))}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def type_code(self) -> int:
        """fairseq's code for the integers that hold the ids: 8 for uint16, 9 for uint32."""
        return 8 if len(self) < 65500 else 9

    @classmethod
    def count(cls, counts: Mapping[str, int], multiple: int = 8) -> Vocabulary:
        """Order units as ``fairseq-preprocess`` does: by falling count, then as text; then fill up the size.

        Args:
            counts: how often each unit occurs.
            multiple: the size becomes a multiple of this, by units called ``madeupword0000`` that never occur.
        """
        ordered = {unit: counts[unit] for unit in sorted(counts, key=lambda unit: (-counts[unit], unit))}
        for number in range(-(len(ordered) + len(SPECIAL)) % multiple):
            ordered[f"madeupword{number:04d}"] = 0
        return cls(ordered)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read a dictionary file of fairseq, a unit and its count on each line.

        Raises:
            InputError: the file is missing or something else; the message names the line.
        """
        counts: dict[str, int] = {}
        try:
            with open(path, encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    unit, _, count = line.rstrip().rpartition(" ")
                    if not unit or not count.lstrip("-").isdecimal():
                        raise InputError(
                            f"{path}, line {number}: '<unit> <count>' is expected, as in fairseq's dictionaries"
                        )
                    if unit in counts or unit in SPECIAL:
                        raise InputError(f"{path}, line {number}: {unit} occurs twice, or is a special symbol")
                    counts[unit] = int(count)
        except FileNotFoundError:
            raise InputError(f"{path}: no such dictionary") from None
        except IsADirectoryError:
            raise InputError(f"{path} is a folder, a dictionary file is expected") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a dictionary of fairseq, which is UTF-8 text") from None
        if not counts:
            raise InputError(f"{path}: no units in it")
        return cls(counts)

    def write(self, file: IO[str]) -> None:
        """Write the dictionary file."""
        file.writelines(f"{unit} {count}\n" for unit, count in self.counts.items())
