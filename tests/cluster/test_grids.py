"""Grids: the combinations, their names, and their words on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.cluster.__main__ import grid_words
from speechdlm_ext.cluster.grids import cell_name, grid_cells
from speechdlm_ext.errors import InputError


def test_every_combination_once_the_last_option_fastest() -> None:
    grid = ["task.data=/a", "model.dropout=0.1,0.2", "optimization.lr=[1,2],[3]", 'x.y="a,b"']
    cells = grid_cells(grid)
    assert [cell[1:3] for cell in cells] == [
        ["model.dropout=0.1", "optimization.lr=[1,2]"],
        ["model.dropout=0.1", "optimization.lr=[3]"],
        ["model.dropout=0.2", "optimization.lr=[1,2]"],
        ["model.dropout=0.2", "optimization.lr=[3]"],
    ]
    assert {(cell[0], cell[3]) for cell in cells} == {("task.data=/a", 'x.y="a,b"')}
    assert cell_name(cells[1], grid) == "dropout_0.1-lr_[3]" and cell_name(["a=1"], ["a=1"]) == "all"
    assert grid_words(["a=1,2"], Path("runs"))[1] == ["a=2", "hydra.run.dir=runs/a_2"]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_as_many_as_the_product(sizes: list[int]) -> None:
    grid = [f"o{place}={','.join(map(str, range(size)))}" for place, size in enumerate(sizes)]
    names = {cell_name(cell, grid) for cell in grid_cells(grid)}
    product = 1
    for size in sizes:
        product *= size
    assert len(names) == product


def test_other_words_are_refused() -> None:
    for word in ("a", "=1", "a=1,,2", "a="):
        with pytest.raises(InputError, match="expected NAME=VALUE"):
            grid_cells([word])
