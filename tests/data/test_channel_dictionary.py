"""Lines of channels side by side, and their refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from tests.helpers.published import toy_dictionary


@given(st.integers(1, 4).flatmap(lambda c: st.lists(st.lists(st.integers(0, 19), min_size=c, max_size=c), min_size=1)))
def test_what_is_printed_can_be_typed_back_in(rows: list[list[int]]) -> None:
    dictionary = toy_dictionary(len(rows[0]))
    ids = torch.tensor(rows) + dictionary.nspecial
    assert torch.equal(dictionary.encode_line(dictionary.string(ids)), ids)
    assert dictionary.string(ids.flatten()) == dictionary.string(ids)


def test_special_symbols_are_not_printed() -> None:
    assert toy_dictionary().string(torch.tensor([[2, 2], [4, 5], [2, 2], [1, 1]])) == "0 | 1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3", r"1 channel\(s\), 2 are expected \(unitA,unitB\)"),
        ("1 | 2 | 3", r"3 channel\(s\)"),
        ("1 2 | 1", "found 2 in unitA, 1 in unitB"),
        ("1 99 | 1 2", "unit 99 of unitA is not in dict.unitA.txt"),
        ("1 2 | 1 x", "unit x of unitB is not in dict.unitB.txt"),
        ("<pad> 2 | 1 1", "unit <pad> of unitA"),
    ],
)
def test_malformed_lines_are_explained(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy_dictionary().encode_line(line)


def test_only_units_may_be_emitted() -> None:
    dictionary = toy_dictionary(2, units=5)
    dictionary.dictionaries[1].add_symbol("madeupword0000")
    assert dictionary.emittable().int().tolist() == [[0] * 4 + [1] * 5 + [0], [0] * 4 + [1] * 5 + [0]]
