"""Shards: every item in one of them, named by an option or by SLURM, and found again."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.sharding import Shard, add_shard_option, find_shard, shard_paths


@given(st.lists(st.integers(), max_size=50), st.integers(1, 12))
def test_every_item_is_in_one_shard(items: list[int], count: int) -> None:
    numbered = list(enumerate(items))
    taken = [Shard(index, count).take(numbered) for index in range(count)]
    assert sorted(item for part in taken for item in part) == numbered
    assert all(number % count == index for index, part in enumerate(taken) for number, _ in part)
    sizes = [len(part) for part in taken]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("5/4", "shard 5/4: the index must be 0 to 3"),
        ("4/4", "the index must be 0 to 3"),
        ("-1/4", "the index must be 0 to 3"),
        ("0/0", "1 shard or more"),
        ("1", "--shard 1: expected I/N"),
        ("a/b", "expected I/N"),
        ("1/2/3", "expected I/N"),
        ("", "expected I/N"),
    ],
)
def test_shards_that_are_none(option: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_shard(option, None, {})


def slurm(**values: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_nothing_is_split_unless_asked() -> None:
    """An array that sweeps an option is no division of the items, and one shard of one is all of them."""
    for environment in ({}, slurm(ID=3, COUNT=4, MIN=0, MAX=3)):
        assert find_shard(None, None, environment) is None and find_shard("0/1", None, environment) is None
        assert find_shard("1/2", None, environment) == Shard(1, 2)


def test_slurm_arrays() -> None:
    """sbatch --array=0-3; with the number of shards --array=0,5,12 and --array=2 of 16."""
    whole = {"COUNT": 4, "MIN": 0, "MAX": 3, "STEP": 1}
    assert [find_shard("slurm", None, slurm(ID=n, **whole)) for n in range(4)] == [Shard(n, 4) for n in range(4)]
    assert find_shard("slurm", None, slurm(ID=0, COUNT=1, MIN=0, MAX=0)) is None
    for task, array in ((5, {"COUNT": 3, "MIN": 0, "MAX": 12}), (2, {"COUNT": 1, "MIN": 2, "MAX": 2}), (2, {})):
        assert find_shard("slurm:16", None, slurm(ID=task, **array)) == Shard(task, 16)


@pytest.mark.parametrize(
    "array",
    [
        {"ID": 2, "COUNT": 2, "MIN": 0, "MAX": 2},  # 0,2: every task of an earlier 0-3 would do other items
        {"ID": 0, "COUNT": 2, "MIN": 0, "MAX": 2},
        {"ID": 2, "COUNT": 1, "MIN": 2, "MAX": 2},
        {"ID": 1, "COUNT": 4, "MIN": 1, "MAX": 4},
        {"ID": 18, "COUNT": 3, "MIN": 10, "MAX": 18, "STEP": 4},
        {"ID": 4, "COUNT": 3, "MIN": 0, "MAX": 8, "STEP": 4},
        {"ID": 0, "COUNT": 1, "MIN": 0, "MAX": 0, "STEP": 0},
        {"ID": 3},
        {},
    ],
)
def test_arrays_whose_number_of_shards_cannot_be_told(array: dict[str, int]) -> None:
    with pytest.raises(InputError, match="slurm:N" if "COUNT" in array else "slurm"):
        find_shard("slurm", None, slurm(**array))


@pytest.mark.parametrize("option", ["slurm:4", "slurm:0", "slurm:", "slurm:x", "slurm/4", "slurmy"])
def test_no_such_shard_of_an_array(option: str) -> None:
    with pytest.raises(InputError, match="shard"):
        find_shard(option, None, slurm(ID=5, COUNT=8, MIN=0, MAX=7))


@pytest.mark.parametrize("ending", ["", ".partial", ".errors"])
def test_shards_of_another_division_are_refused_at_the_start(tmp_path: Path, ending: str) -> None:
    output = tmp_path / "units.jsonl"
    beside = Shard(1, 4).path(output)
    beside.with_name(beside.name + ending).touch()
    Shard(1, 3).path(tmp_path / "other.jsonl").touch()
    with pytest.raises(InputError, match=r"units.jsonl.shard-1-of-4.* is of another division than --shard 0/2"):
        find_shard("0/2", output, {})
    with pytest.raises(InputError, match="another division"):
        find_shard("slurm", output, slurm(ID=0, COUNT=2, MIN=0, MAX=1))
    assert find_shard("0/4", output, {}) == Shard(0, 4) and find_shard(None, output, {}) is None


def test_option_of_a_command() -> None:
    parser = argparse.ArgumentParser()
    add_shard_option(parser)
    assert find_shard(parser.parse_args(["--shard", "2/7"]).shard) == Shard(2, 7)
    assert parser.parse_args([]).shard is None and str(Shard(2, 7)) == "2/7"


def test_shards_of_an_output_are_found(tmp_path: Path) -> None:
    output = tmp_path / "units é.jsonl"
    assert shard_paths(output) == [] == shard_paths(tmp_path / "none" / "x")
    paths = [Shard(index, 11).path(output) for index in range(11)]
    for path in paths[:3] + paths[4:]:
        path.touch()
        path.with_name(path.name + ".errors").touch()
        path.with_name(path.name + ".partial").touch()
    Shard(0, 2).path(tmp_path / "units é.json").touch()  # another output's
    with pytest.raises(InputError, match="lacks shard 3 of 11.*--shard 3/11"):
        shard_paths(output)
    paths[3].touch()
    assert shard_paths(output) == paths
    Shard(1, 4).path(output).touch()
    with pytest.raises(InputError, match="shards of 4 and of 11"):
        shard_paths(output)
