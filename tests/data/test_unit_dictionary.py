"""How fairseq's dictionaries map onto the rows of unit language models."""

from __future__ import annotations

import pytest
import torch
from fairseq.data import Dictionary

from speechdlm_ext.data.unit_dictionary import NO_ROW, UnitDictionary
from speechdlm_ext.errors import InputError


def fairseq_dictionary(*symbols: str) -> Dictionary:
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


def test_rows_are_the_published_ones_whatever_the_order_of_the_dictionary() -> None:
    dictionary = fairseq_dictionary("7", "0", "madeupword0000", "3")
    rows = UnitDictionary.of(dictionary, "dict.txt")
    assert (rows.units, len(rows)) == (8, 9)
    assert rows.rows_of(dictionary, "dict.txt").tolist() == [0, NO_ROW, 0, NO_ROW, 8, 1, NO_ROW, 4]
    assert UnitDictionary.of(dictionary, "dict.txt", 500).units == 500
    outside = {rows.pad(), rows.unk()}
    assert len(outside) == 2 and min(outside) >= len(rows)  # no row of the model
    assert rows.bos() == rows.eos() == 0


def test_lines_are_read_as_they_are_printed() -> None:
    rows = UnitDictionary(12)
    assert rows.encode_line(" 0 11 3\n").tolist() == [1, 12, 4]
    assert rows.string(torch.tensor([0, 1, 12, 4, 0, rows.pad()])) == "0 11 3"
    assert [rows[i] for i in (0, 1, 12, 13, 14)] == ["</s>", "0", "11", "<pad>", "<unk>"]


@pytest.mark.parametrize(
    ("symbols", "units", "message"),
    [
        (("3", "u4"), None, r"dict\.txt: u4 is no unit"),
        (("3", "-1"), None, "-1 is no unit"),
        (("3", "12"), 12, "unit 12 is outside the vocabulary, the codebook has 12 units"),
        ((), None, "one unit or more"),
    ],
)
def test_other_symbols_are_refused(symbols: tuple[str, ...], units: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        UnitDictionary.of(fairseq_dictionary(*symbols), "dict.txt", units)
    for line in ("1 20", "1 x", "1 -1"):
        with pytest.raises(InputError, match="is no unit of this vocabulary"):
            UnitDictionary(20).encode_line(line)
