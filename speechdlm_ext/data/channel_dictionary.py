"""The dictionaries of all channels as one, in the form that fairseq's own commands use."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from speechdlm_ext.errors import InputError

SEPARATOR = " | "


def load_dictionary(path: str, fix: str) -> Dictionary:
    """Read a dictionary of fairseq.

    Args:
        fix: what the error says where there is none.

    Raises:
        InputError: the file is missing or is not a dictionary; the message names it.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; {fix}")
    try:
        return Dictionary.load(path)
    except (ValueError, RuntimeError, UnicodeError) as error:
        raise InputError(f"{path}: not a dictionary of fairseq ({error})") from None


def load_dictionaries(folder: str, channels: Sequence[str]) -> list[Dictionary]:
    """Read ``dict.<channel>.txt`` of each channel.

    Raises:
        InputError: a file is missing or is not a dictionary; the message names it.
    """
    dictionaries = []
    for channel in channels:
        fix = (
            f"fairseq-preprocess --source-lang {channel} --only-source writes it "
            f"(the channels are {','.join(channels)}, see --channels)"
        )
        dictionaries.append(load_dictionary(os.path.join(folder, f"dict.{channel}.txt"), fix))
    return dictionaries


def find_channels(folder: str) -> list[str]:
    """The channels of a folder of binarized data, by its ``dict.<channel>.txt`` files, in alphabetical order."""
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder of binarized data")
    names = sorted(n[5:-4] for n in os.listdir(folder) if n.startswith("dict.") and n.endswith(".txt") and len(n) > 9)
    if not names:
        raise InputError(f"{folder}: no dict.<channel>.txt in it; binarize the units with fairseq-preprocess first")
    return names


class ChannelDictionary:
    """The dictionaries of C channels, side by side.

    Serves in place of a :class:`fairseq.data.Dictionary` wherever fairseq's commands print or parse: a sequence is
    ``(T, C)``, and a line of text has the channels side by side, ``"7 376 376 | 7 499 415"``. What is printed can be
    parsed again. The special symbols must have the same numbers in every channel.
    """

    def __init__(self, channels: Sequence[str], dictionaries: Sequence[Dictionary]) -> None:
        self.channels = list(channels)
        self.dictionaries = list(dictionaries)
        first = self.dictionaries[0]
        special = (first.bos(), first.pad(), first.eos(), first.unk(), first.nspecial)
        for channel, other in zip(self.channels, self.dictionaries, strict=True):
            if (other.bos(), other.pad(), other.eos(), other.unk(), other.nspecial) != special:
                raise InputError(
                    f"dict.{channel}.txt numbers the special symbols otherwise than dict.{self.channels[0]}.txt: make "
                    "both with the same fairseq-preprocess"
                )
        self.nspecial = first.nspecial

    def __len__(self) -> int:
        """The size of a vocabulary that holds every channel's."""
        return max(map(len, self.dictionaries))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChannelDictionary) and self.dictionaries == other.dictionaries

    def bos(self) -> int:
        """The number of ``<s>``."""
        return self.dictionaries[0].bos()

    def pad(self) -> int:
        """The number of ``<pad>``."""
        return self.dictionaries[0].pad()

    def eos(self) -> int:
        """The number of ``</s>``."""
        return self.dictionaries[0].eos()

    def unk(self) -> int:
        """The number of ``<unk>``."""
        return self.dictionaries[0].unk()

    def emittable(self) -> Tensor:
        """True for the units that a channel may emit: neither special symbols nor fillers: ``(C, V)`` bool."""
        allowed = torch.zeros(len(self.dictionaries), len(self), dtype=torch.bool)
        for row, dictionary in zip(allowed, self.dictionaries, strict=True):
            row[self.nspecial : len(dictionary)] = True
            fillers = [i for i, s in enumerate(dictionary.symbols) if s.startswith("madeupword")]
            row[fillers] = False
        return allowed

    def channel_strings(self, tokens: Tensor) -> dict[str, str]:
        """Ids ``(T, C)`` to one line of units for each channel; ``<s>``, ``<pad>`` and ``</s>`` are skipped."""
        hidden = {self.bos(), self.pad(), self.eos()}
        return {
            channel: " ".join(dictionary[i] for i in ids if i not in hidden)
            for channel, dictionary, ids in zip(self.channels, self.dictionaries, tokens.t().tolist(), strict=True)
        }

    def string(self, tensor: Tensor, *unused: Any, **unused_by_name: Any) -> str:
        """Ids ``(T, C)``, or the same flattened, to a line of channels side by side."""
        if tensor is None or tensor.numel() == 0:
            return SEPARATOR.join("" for _ in self.channels)
        return SEPARATOR.join(self.channel_strings(tensor.reshape(-1, len(self.channels))).values())

    def encode_channels(self, units: Sequence[str], where: str = "the prompt", free: Collection[str] = ()) -> Tensor:
        """One string of units for each channel to ids ``(T, C)``.

        Args:
            units: units separated by blanks, one string for each channel.
            where: what to name in an error.
            free: special symbols that are allowed.

        Raises:
            InputError: a unit is not in its channel's dictionary, or the channels are not equally long.
        """
        columns = []
        for channel, dictionary, text in zip(self.channels, self.dictionaries, units, strict=True):
            ids = []
            for word in text.split():
                known = dictionary.indices.get(word, dictionary.unk())
                if known < self.nspecial and word not in free:
                    raise InputError(
                        f"{where}: unit {word} of {channel} is not in dict.{channel}.txt "
                        f"({len(dictionary) - self.nspecial} units): were the units made with another codebook?"
                    )
                ids.append(known)
            columns.append(ids)
        lengths = {channel: len(ids) for channel, ids in zip(self.channels, columns, strict=True)}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} in {channel}" for channel, length in lengths.items())
            raise InputError(f"{where}: the channels must have equally many units, found {found}")
        return torch.tensor(columns, dtype=torch.long).t().contiguous()

    def encode_line(self, line: str, where: str = "the line", **unused: Any) -> Tensor:
        """A line of channels side by side to ids ``(T, C)``.

        Raises:
            InputError: another number of channels, channels of unequal length, or an unknown unit.
        """
        parts = line.split(SEPARATOR.strip())
        if len(parts) != len(self.channels):
            raise InputError(
                f"{where}: {len(parts)} channel(s), {len(self.channels)} are expected "
                f"({','.join(self.channels)}), separated by '{SEPARATOR}'"
            )
        return self.encode_channels(parts, where)
