"""Shards: which items of a long list this process does, as ``--shard`` says, and the files that shards write.

Nothing is split unless it is asked for: a SLURM array that sweeps an option does the whole list in each task.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.locking import exclusive

Item = TypeVar("Item")
_NAME = re.compile(r"(?P<output>.+)\.shard-(?P<index>\d+)-of-(?P<count>\d+)")
_BESIDE = (".partial", ".errors")  # endings of what lies beside the output of a shard


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

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this shard, in their order."""
        return items[self.index :: self.count]

    def path(self, output: str | os.PathLike[str]) -> Path:
        """Where the results of this shard go: ``<output>.shard-<index>-of-<count>``."""
        output = Path(output)
        return output.with_name(f"{output.name}.shard-{self.index}-of-{self.count}")


def add_shard_option(parser: argparse._ActionsContainer) -> None:
    """``--shard``, read by :func:`find_shard`."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="do only the items whose number modulo N is I (0 to N-1); slurm: of a SLURM array's task I and size N; "
        "slurm:N: of task I and this N, as to do some tasks of a larger array again (default: all items)",
    )


def find_shard(
    option: str | None, output: str | os.PathLike[str] | None = None, environment: Mapping[str, str] = os.environ
) -> Shard | None:
    """The shard that ``--shard`` asks for; None for all items, which ``0/1`` means too.

    Args:
        option: ``I/N``, ``slurm``, ``slurm:N`` or None.
        output: what the command writes; shards of another division beside it are refused.
        environment: with SLURM's variables.

    Raises:
        InputError: no such shard; not in a SLURM array, or in one with gaps, from which the number of shards cannot be
            told; or shards of another division lie beside the output.
    """
    if option is None:
        return None
    if option.strip().startswith("slurm"):
        shard = _of_slurm(option.strip(), environment)
    else:
        found = re.fullmatch(r"\s*(-?\d+)\s*/\s*(-?\d+)\s*", option)
        if not found:
            raise InputError(f"--shard {option}: expected I/N as in 0/4, slurm, or slurm:N")
        shard = Shard(int(found[1]), int(found[2]))
    if output is not None:
        other = next((path for path, found in _beside(output) if found.count != shard.count), None)
        if other is not None:
            raise InputError(
                f"{other} is of another division than --shard {shard}: remove the shards of the division that is not "
                "needed, or pass the number of shards that it has"
            )
    return shard if shard.count > 1 else None


def _of_slurm(option: str, environment: Mapping[str, str]) -> Shard:
    named = re.fullmatch(r"slurm(?::(\d+))?", option)
    if not named:
        raise InputError(f"--shard {option}: expected slurm or slurm:N, as in slurm:16")
    task = environment.get("SLURM_ARRAY_TASK_ID", "")
    if not task.isdecimal():
        raise InputError(f"--shard {option}: this is no task of a SLURM array: sbatch --array=0-3, or --shard I/N")
    if named[1]:
        return Shard(int(task), int(named[1]))
    count, first, last, step = (
        int(value) if (value := environment.get(f"SLURM_ARRAY_TASK_{name}", "")).isdecimal() else None
        for name in ("COUNT", "MIN", "MAX", "STEP")
    )
    if not count or first or last not in (None, count - 1) or step not in (None, 1) or int(task) >= count:
        raise InputError(
            f"--shard {option}: task {task} of a SLURM array of {count or '?'} from {first or 0} to "
            f"{'?' if last is None else last}, which is not 0 to N-1 without gaps: give the number of shards, slurm:N"
        )
    return Shard(int(task), count)


def check_division(
    output: str | os.PathLike[str],
    shard: Shard | None,
    items: str,
    source: object,
    overwrite: bool = False,
    joined: bool = True,
) -> None:
    """See that all shards of an output are of one list of items: the first one notes it in ``<output>.shards``.

    Args:
        output: of the command.
        shard: that is to be done; of all items nothing is noted.
        items: a digest of the list.
        source: where the list is, for the message.
        overwrite: let the list be another one from now on.
        joined: whether shards write files that are joined afterwards; where they do not, see :func:`leave_division`.

    Raises:
        InputError: another shard was of another list.
    """
    if shard is None:
        return
    note, own = Path(f"{os.fspath(output)}.shards"), {"shards": shard.count, "items": items}
    with exclusive(note, wait=60):
        known = _division(note) or own
        done = known.pop("done", [])
        if known != own and not overwrite:
            changed = (
                "lists other recordings than" if known.get("shards") == shard.count else "is divided otherwise than"
            )
            raise InputError(
                f"{source} {changed} when the first of the shards of {output} was begun (--shard {shard}): give it "
                f"back its old content, or pass --overwrite to all shards, or remove {note}"
                + (f" and {output}.shard-*" if joined else "")
            )
        with atomic_write(note) as file:
            json.dump({**own, "done": done} if done and known == own else own, file)


def leave_division(output: str | os.PathLike[str], shard: Shard | None) -> None:
    """Note that a shard is done, of an output whose shards are not joined; after the last one the list may change."""
    if shard is None:
        return
    note = Path(f"{os.fspath(output)}.shards")
    with exclusive(note, wait=60):
        known = _division(note)
        done = sorted({*known.get("done", []), shard.index})
        if len(done) == shard.count:
            note.unlink(missing_ok=True)
        elif known:
            with atomic_write(note) as file:
                json.dump({**known, "done": done}, file)


def _division(note: Path) -> dict[str, Any]:
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def shard_of(path: str | os.PathLike[str]) -> tuple[Path, Shard] | None:
    """The output and the shard that a file is named after; None where it is not the result of a shard."""
    path = Path(path)
    name = _NAME.fullmatch(path.name)
    if not name or int(name["index"]) >= int(name["count"]):
        return None
    return path.with_name(name["output"]), Shard(int(name["index"]), int(name["count"]))


def _beside(output: str | os.PathLike[str]) -> list[tuple[Path, Shard]]:
    """The files of all shards of ``output`` that exist, ``.partial`` and ``.errors`` included."""
    output, files = Path(output), []
    for path in sorted(output.parent.iterdir()) if output.parent.is_dir() else ():
        name = path.name
        for ending in _BESIDE:
            name = name.removesuffix(ending)
        if (found := shard_of(path.with_name(name))) and found[0].name == output.name:
            files.append((path, found[1]))
    return files


def remove_shards(output: str | os.PathLike[str]) -> None:
    """Delete the results of all shards of ``output``, with what lies beside them."""
    for path, _ in _beside(output):
        path.unlink(missing_ok=True)
    Path(f"{os.fspath(output)}.shards").unlink(missing_ok=True)


def shard_paths(output: str | os.PathLike[str]) -> list[Path]:
    """The results of all shards of ``output`` that exist, by number.

    Raises:
        InputError: some of them are missing, or they are of divisions into several numbers of shards.
    """
    found: dict[int, dict[int, Path]] = {}
    for path, shard in _beside(output):
        if path == shard.path(path.with_name(Path(output).name)):
            found.setdefault(shard.count, {})[shard.index] = path
    if len(found) > 1:
        counts = " and of ".join(str(count) for count in sorted(found))
        raise InputError(f"{output} has shards of {counts}: remove those of the division that is not needed")
    for count, paths in found.items():
        missing = [str(index) for index in range(count) if index not in paths]
        if missing:
            raise InputError(
                f"{output} lacks shard {', '.join(missing[:5])} of {count}: run it with --shard {missing[0]}/{count}"
            )
        return [paths[index] for index in range(count)]
    return []
