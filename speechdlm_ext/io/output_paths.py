"""Where the sound that is made of recordings goes: a tree like theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import NumbersOnDisk
from speechdlm_ext.io.naming import stem_of
from speechdlm_ext.io.recordings import audio_paths

Row = Mapping[str, Any]


class MirrorPaths:
    """The wav file for each recording of a manifest; memory holds their folders, not their names.

    It is ``<output>/<dataset>/`` and then what follows the first folder named ``dataset`` in the recording's path.
    Where that is not a folder of every path, it is what follows the folder that all recordings have in common. A part
    of a recording, and one in several files (of which the folder of the first counts), has its id as name. Two
    recordings that differ in their suffix alone keep it: ``a.flac.wav``.

    Args:
        rows: the whole manifest, not one shard of it, so that all shards agree. It is gone through more than once.
        dataset: name of the data set, one word of a path.
        output: folder of all data sets.

    Raises:
        InputError: ``dataset`` is not the name of a folder, or two recordings would have the same file.
    """

    def __init__(self, rows: Collection[Row], dataset: str, output: str | os.PathLike[str]) -> None:
        if not dataset or dataset in (".", "..") or PurePath(dataset).name != dataset:
            raise InputError(f"dataset {dataset!r}: the name of a folder is expected, without a slash")
        self.root = Path(output, dataset)
        self._parents = _parents({_source(row)[0] for row in rows}, dataset)  # few, of many files
        self._doubled: set[int] = set()
        self._doubled = _repeated(rows, self._name)
        if self._doubled and (same := _repeated(rows, self._name)):
            doubled = next(found for row in rows if (found := _hash(self._name(row))) in same)
            first, second = islice((row for row in rows if _hash(self._name(row)) == doubled), 2)
            raise InputError(
                f"recordings {first['id']} and {second['id']} would both become {self(second)}: make manifests of each"
            )

    def __call__(self, row: Row) -> Path:
        """The wav file of a row."""
        return Path(self.root, self._name(row) + ".wav")

    def _name(self, row: Row) -> str:
        folder, name = _source(row)
        if len(audio_paths(row)) > 1 or row.get("offset") is not None:
            name = row["id"]
        stem = os.path.join(self._parents[folder], stem_of(name))
        return os.path.join(self._parents[folder], name) if _hash(stem) in self._doubled else stem


def _source(row: Row) -> tuple[str, str]:
    return os.path.split(os.path.abspath(audio_paths(row)[0]))


def _parents(folders: set[str], dataset: str) -> dict[str, str]:
    """The folder in the tree for each folder of recordings."""
    if all(dataset in folder.split(os.sep) for folder in folders):
        parts = {folder: folder.split(os.sep) for folder in folders}
        return {folder: os.sep.join(part[part.index(dataset) + 1 :]) for folder, part in parts.items()}
    common = os.path.commonpath(list(folders))
    return {folder: os.path.relpath(folder, common) for folder in folders}


def _repeated(rows: Collection[Row], name: Callable[[Row], str]) -> set[int]:
    """Hashes of the names that several rows have."""
    hashes = NumbersOnDisk()
    for row in rows:
        hashes.append(_hash(name(row)))
    return hashes.repeated()


def _hash(name: str) -> int:
    return hash(name.casefold())
