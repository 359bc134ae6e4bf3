"""Archives of lhotse (SHAR): folders of ``cuts.000000.jsonl.gz`` with ``recording.000000.tar``, … beside them.

A recording in an archive is read where it lies; its path is ``ARCHIVE::NAME@OFFSET+SIZE``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.manifest import Line, iter_jsonl

_PART = re.compile(r"(?s)(.+)::(.+)@(\d+)\+(\d+)")


class Part(NamedTuple):
    """A file in an archive: which, its name, and its bytes there."""

    archive: str
    name: str
    offset: int
    size: int

    @property
    def path(self) -> str:
        """What :func:`parse_part` reads."""
        return f"{self.archive}::{self.name}@{self.offset}+{self.size}"

    def read(self) -> bytes:
        """Its content; raises :class:`InputError` where the archive has not so many bytes."""
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise InputError(f"{self.archive}: cannot be read ({error.strerror})") from None
        if len(data) != self.size:
            raise InputError(f"{self.archive}: {self.name} is cut off")
        return data


def parse_part(path: str | os.PathLike[str]) -> Part | None:
    """The part of an archive that a path names; ``None`` where it is that of a file."""
    found = _PART.fullmatch(os.fsdecode(path)) if "::" in os.fsdecode(path) else None
    return Part(found[1], found[2], int(found[3]), int(found[4])) if found else None


def iter_cuts(path: str | os.PathLike[str]) -> Iterator[Line]:
    """The rows of a file of JSON lines, perhaps with ``.gz``, or of a SHAR folder, whose recordings are files then.

    Raises:
        InputError: as :func:`.iter_jsonl`, or an archive is missing, damaged, or of other cuts.
    """
    if os.path.isdir(path):
        yield from _iter_shar(Path(path))
    elif os.fspath(path).endswith(".gz"):
        yield from _iter_gzip(Path(path))
    else:
        yield from iter_jsonl(path)


def _iter_gzip(path: Path) -> Iterator[Line]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
                yield Line(number, 0, row)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: no compressed JSON lines ({one_line(error)[:200]})") from None


def _iter_shar(folder: Path) -> Iterator[Line]:
    shards = sorted(folder.glob("cuts.*.jsonl.gz"))
    if not shards:
        raise InputError(f"{folder}: no cuts.*.jsonl.gz in it, expected a SHAR folder of lhotse")
    for shard in shards:
        number = shard.name.split(".")[1]
        archives = {path.name.split(".")[0]: _members(path) for path in sorted(folder.glob(f"*.{number}.tar"))}
        for place, line in enumerate(_iter_gzip(shard)):
            row, custom = line.row, line.row.get("custom") or {}
            for name, recording in (("recording", row.get("recording")), *custom.items()):
                sources = recording.get("sources") if isinstance(recording, dict) else None
                if sources and sources[0].get("type") == "shar":
                    members = archives.get(name, [])
                    if place >= len(members) or members[place].name.rpartition(".")[0] != row.get("id"):
                        raise InputError(
                            f"{shard}, line {line.number}: no {name} of {row.get('id')} in {name}.{number}.tar"
                        )
                    sources[:] = [{**sources[0], "type": "file", "source": members[place].path}]
            yield line


def _members(path: Path) -> list[Part]:
    """The data in an archive, one for each cut; what describes them (``.json``) stands in the cuts, too."""
    try:
        with tarfile.open(path, "r:") as archive:
            found = [one for one in archive.getmembers() if one.isreg() and not one.name.endswith((".json", ".nometa"))]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{path}: no archive that can be read ({one_line(error)})") from None
    return [Part(os.path.abspath(path), one.name, one.offset_data, one.size) for one in found]
