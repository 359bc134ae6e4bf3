"""Where the sound that is made of recordings goes: a tree like theirs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.naming import stem_of
from speechdlm_ext.io.recordings import audio_paths


def mirror_paths(rows: Sequence[Mapping[str, Any]], dataset: str, output: str | os.PathLike[str]) -> dict[str, Path]:
    """The wav file for each recording of a manifest, by id.

    It is ``<output>/<dataset>/`` and then what follows the first folder named ``dataset`` in the recording's path.
    Where that is not a folder of every path, it is what follows the folder that all recordings have in common. A part
    of a recording, and one in several files (of which the folder of the first counts), has its id as name. Two
    recordings that differ in their suffix alone keep it: ``a.flac.wav``.

    Args:
        rows: the whole manifest, not one shard of it, so that all shards agree.
        dataset: name of the data set, one word of a path.
        output: folder of all data sets.

    Raises:
        InputError: ``dataset`` is not the name of a folder, or two recordings would have the same file.
    """
    if not dataset or dataset in (".", "..") or PurePath(dataset).name != dataset:
        raise InputError(f"dataset {dataset!r}: the name of a folder is expected, without a slash")
    sources = [os.path.split(os.path.abspath(audio_paths(row)[0])) for row in rows]
    folders = dict.fromkeys(folder for folder, _ in sources)  # few, of many files
    if all(dataset in folder.split(os.sep) for folder in folders):
        parts = {folder: folder.split(os.sep) for folder in folders}
        parents = {folder: os.sep.join(part[part.index(dataset) + 1 :]) for folder, part in parts.items()}
    else:
        common = os.path.commonpath(list(folders))
        parents = {folder: os.path.relpath(folder, common) for folder in folders}
    names = [
        os.path.join(parents[folder], name if len(audio_paths(row)) == 1 and row.get("offset") is None else row["id"])
        for row, (folder, name) in zip(rows, sources, strict=True)
    ]
    stems = [os.path.join(os.path.dirname(name), stem_of(name)) for name in names]
    often = Counter(map(str.casefold, stems))
    made: dict[str, Path] = {}
    taken: dict[str, str] = {}
    for row, name, stem in zip(rows, names, stems, strict=True):
        kept = name if often[stem.casefold()] > 1 else stem
        path = Path(output, dataset, kept + ".wav")
        other = taken.setdefault(kept.casefold(), row["id"])
        if other != row["id"]:
            raise InputError(f"recordings {other} and {row['id']} would both become {path}: make manifests of each")
        made[row["id"]] = path
    return made
