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
        ("1", "--shard 1: two numbers are wanted"),
        ("a/b", "two numbers"),
        ("1/2/3", "two numbers"),
        ("", "two numbers"),
    ],
)
def test_shards_that_are_none(option: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_shard(option, {})


def slurm(**values: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_slurm_arrays() -> None:
    """sbatch --array=0-3, --array=1-4, --array=10-18:4; the option goes before; outside an array there is no shard."""
    assert [find_shard(None, slurm(ID=n, COUNT=4, MIN=0)) for n in range(4)] == [Shard(n, 4) for n in range(4)]
    assert [find_shard(None, slurm(ID=n, COUNT=4, MIN=1, MAX=4)) for n in (1, 4)] == [Shard(0, 4), Shard(3, 4)]
    assert find_shard(None, slurm(ID=18, COUNT=3, MIN=10, STEP=4)) == Shard(2, 3)
    assert find_shard("1/2", slurm(ID=3, COUNT=4, MIN=0)) == Shard(1, 2)
    assert find_shard(None, {}) is None and find_shard(None, {"SLURM_ARRAY_TASK_ID": "3"}) is None
    # --array=0,5,12 of a division into 16: the number of shards cannot be told.
    with pytest.raises(InputError, match=r"array of 3.*--shard \$SLURM_ARRAY_TASK_ID/N"):
        find_shard(None, slurm(ID=5, COUNT=3, MIN=0))


def test_option_of_a_command() -> None:
    parser = argparse.ArgumentParser()
    add_shard_option(parser)
    assert find_shard(parser.parse_args(["--shard", "2/7"]).shard, {}) == Shard(2, 7)
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
