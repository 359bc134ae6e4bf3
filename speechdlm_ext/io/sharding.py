"""Which part of a long list of items this process is to do, from ``--shard i/n`` or from SLURM's variables."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import shard

Item = TypeVar("Item")
_NAME = re.compile(r"(?P<output>.+)\.shard-(?P<index>\d+)-of-(?P<count>\d+)")


@dataclass(frozen=True)
class Shard:
    """The items whose number modulo ``count`` is ``index``.

    Raises:
        InputError: unless ``0 <= index < count``.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"shard {self.index}/{self.count}: "
                + (f"the index must be 0 to {self.count - 1}" if self.count > 0 else "there must be 1 shard or more")
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def take(self, items: Sequence[Item]) -> list[Item]:
        """The items of this shard, in their order."""
        return shard(items, self.index, self.count)

    def path(self, output: str | os.PathLike[str]) -> Path:
        """Where the results of this shard go: ``<output>.shard-<index>-of-<count>``."""
        output = Path(output)
        return output.with_name(f"{output.name}.shard-{self.index}-of-{self.count}")


def add_shard_option(parser: argparse.ArgumentParser) -> None:
    """``--shard i/n``, read by :func:`find_shard`."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="do the items whose number modulo N is I (0 to N-1); by default a SLURM array's task number and size, "
        "where there are such",
    )


def find_shard(option: str | None, environment: Mapping[str, str] = os.environ) -> Shard | None:
    """The shard that ``--shard`` names, else that of the SLURM array task that this process is; None for all items.

    A task's number counts from ``SLURM_ARRAY_TASK_MIN`` in steps of ``SLURM_ARRAY_TASK_STEP``.

    Raises:
        InputError: no such shard, or an array with gaps, from which the number of shards cannot be told.
    """
    if option is not None:
        found = re.fullmatch(r"\s*(-?\d+)\s*/\s*(-?\d+)\s*", option)
        if not found:
            raise InputError(f"--shard {option}: two numbers are wanted, as in 0/4")
        return Shard(int(found[1]), int(found[2]))
    values = [environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("ID", "COUNT")]
    if not all(value.isdecimal() for value in values):
        return None
    task, count = map(int, values)
    first = int(environment.get("SLURM_ARRAY_TASK_MIN") or 0)
    index, rest = divmod(task - first, int(environment.get("SLURM_ARRAY_TASK_STEP") or 1))
    if rest or not 0 <= index < count:
        raise InputError(
            f"task {task} of a SLURM array of {count} from {first} on: an array without gaps is wanted; to do some "
            f"shards again, name them: --shard $SLURM_ARRAY_TASK_ID/N"
        )
    return Shard(index, count)


def shard_of(path: str | os.PathLike[str]) -> tuple[Path, Shard] | None:
    """The output and the shard that a file is named after; None where it is not the result of a shard."""
    path = Path(path)
    name = _NAME.fullmatch(path.name)
    if not name or int(name["index"]) >= int(name["count"]):
        return None
    return path.with_name(name["output"]), Shard(int(name["index"]), int(name["count"]))


def remove_shards(output: str | os.PathLike[str]) -> None:
    """Delete the results of all shards of ``output``, with what lies beside them (``.partial``)."""
    output = Path(output)
    for path in list(output.parent.glob("*")) if output.parent.is_dir() else ():
        found = shard_of(path.with_name(path.name.removesuffix(".partial")))
        if found and found[0].name == output.name:
            path.unlink(missing_ok=True)


def shard_paths(output: str | os.PathLike[str]) -> list[Path]:
    """The results of all shards of ``output`` that are there, by number.

    Raises:
        InputError: some of them are missing, or they are of divisions into several numbers of shards.
    """
    output = Path(output)
    found: dict[int, dict[int, Path]] = {}
    for path in output.parent.glob("*") if output.parent.is_dir() else ():
        name = _NAME.fullmatch(path.name)
        if name and name["output"] == output.name:
            found.setdefault(int(name["count"]), {})[int(name["index"])] = path
    if len(found) > 1:
        counts = " and of ".join(str(count) for count in sorted(found))
        raise InputError(f"{output} has shards of {counts}: remove those of the division that is not wanted")
    for count, paths in found.items():
        missing = [str(index) for index in range(count) if index not in paths]
        if missing:
            raise InputError(
                f"{output} lacks shard {', '.join(missing[:5])} of {count}: run it with --shard {missing[0]}/{count}"
            )
        return [paths[index] for index in range(count)]
    return []
