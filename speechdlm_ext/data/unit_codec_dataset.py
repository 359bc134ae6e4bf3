"""Utterances as units and codec tokens, to train unit-to-codec models on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from speechdlm_ext.data.token_dataset import TokenDataset
from speechdlm_ext.data.unit_codec_dictionary import UNK, UnitCodecDictionary, UnitCodecSequence
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import iter_jsonl, row_at
from speechdlm_ext.units.files import choose_channel, expand_durations, parse_units

CODEC = "codec"


class UnitCodecDataset(TokenDataset):
    """Rows of a unit file, or of a manifest with units, that have codec tokens as well.

    A row has the units of one channel, one per frame or deduplicated with ``<channel>.durations``, and ``codec``:
    "12 7 …". Units, BOS and what is UNK are no targets.

    Args:
        path: JSON lines.
        dictionary: the vocabulary.
        channel: the channel of units (default: the only one of a row).
        published_mask: see :meth:`UnitCodecDictionary.sequence`.

    Raises:
        InputError: a row without units or codec tokens, with some out of range, or whose times differ.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dictionary: UnitCodecDictionary,
        channel: str | None = None,
        published_mask: bool = False,
        shuffle: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(dictionary.pad(), shuffle, seed)
        self.path, self.dictionary = os.fspath(path), dictionary
        self.channel, self.published_mask = channel, published_mask
        offsets, sizes = [], []
        for line in iter_jsonl(path):
            offsets.append(line.offset)
            sizes.append(len(self._sequence(line.row, f"{self.path}, line {line.number}").ids) - 1)
        if not offsets:
            raise InputError(f"{self.path}: no rows in it")
        self.offsets, self.sizes = np.array(offsets), np.array(sizes)

    def _sequence(self, row: Mapping[str, Any], where: str) -> UnitCodecSequence:
        channel = choose_channel(row, self.channel, where)
        if CODEC not in row:
            raise InputError(f"{where}: no codec tokens: data_prep/encode_codec.py adds them")
        rate = row.get("frame_rate", self.dictionary.unit_rate)
        if rate != self.dictionary.unit_rate:
            raise InputError(
                f"{where}: units at {rate:g} Hz, {self.dictionary.unit_rate} Hz are expected (--unit-rate)"
            )
        rate = row.get("codec_rate", self.dictionary.codec_rate)
        if rate != self.dictionary.codec_rate:
            raise InputError(
                f"{where}: codec tokens at {rate:g} Hz, {self.dictionary.codec_rate} Hz are expected (--codec-rate)"
            )
        units = parse_units(expand_durations(row)[channel])
        self.dictionary.unit_ids(units, where)
        return self.dictionary.sequence(
            [f"u{unit}" for unit in units], parse_units(row[CODEC]), where, self.published_mask
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        with open(self.path, "rb") as file:
            row = row_at(file, int(self.offsets[index]))
        ids, given = self._sequence(row, f"{self.path}, row {index + 1}")
        unknown = ids == self.dictionary.token_to_id[UNK]
        target = ids.masked_fill(given | unknown, self.pad)
        return {"id": index, "source": ids[:-1], "target": target[1:]}
