"""The manifests of shards joined into the one that a single run would have written."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import JsonlRows, Line, errors_path, iter_jsonl, temporary_tables
from speechdlm_ext.io.recordings import audio_paths
from speechdlm_ext.io.scan import file_order, write_manifest
from speechdlm_ext.io.sharding import Shard, shard_of

Row = dict[str, Any]


def join_listings(
    paths: Sequence[Path],
    output: str | os.PathLike[str],
    allow_missing: bool = False,
    overwrite: bool = False,
    say: Callable[[str], object] = print,
) -> JsonlRows:
    """Write the manifest of which ``paths`` are the shards, and its ``.errors``: byte by byte those of one run.

    Args:
        paths: shards' manifests; beside them lie their ``.errors``.
        output: the manifest.
        allow_missing: go on without shards that are not among them.
        overwrite: replace a manifest that says something else.
        say: called with lines of text for the user.

    Returns:
        The rows of the manifest.

    Raises:
        InputError: shards are missing, or of different divisions or states of the folder; no recording is usable; or
            another manifest is there.
    """
    shards = {found[1]: path for path, found in ((path, shard_of(path)) for path in paths) if found}
    counts = {shard.count for shard in shards}
    if len(counts) > 1:
        raise InputError(f"{output}: shards of {' and of '.join(map(str, sorted(counts)))}: take those of one division")
    every = [Shard(index, max(counts)) for index in range(max(counts))]
    missing = [shard for shard in every if shard not in shards]
    if missing:
        listed = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        if not allow_missing:
            raise InputError(f"{output} lacks the shards {listed}: run --shard {missing[0]}, or pass --allow-missing")
        say(f"without the shards {listed}")
    parts = [_rows(shards[shard]) for shard in every if shard in shards]
    of_files = any(isinstance(line.row["audio_filepath"], list) for line in _first_lines(shards.values()))
    in_turns = _in_turns(parts, [shards[shard] for shard in every if shard in shards])
    # Recordings of several files do not take turns as files do.
    joined = heapq.merge(*parts, key=_order) if missing or of_files else in_turns
    made = write_manifest(output, joined, overwrite, say=lambda line: None)
    skipped = sum(1 for _ in iter_jsonl(errors_path(output))) if errors_path(output).is_file() else 0
    if skipped:
        say(f"{skipped} of {skipped + len(made)} files were skipped: {errors_path(output)}")
    return made


def _rows(path: Path) -> Iterator[Row]:
    """All files of a shard, usable or not, in order."""
    files = [file for file in (path, errors_path(path)) if file.is_file()]
    return heapq.merge(*((line.row for line in iter_jsonl(file)) for file in files), key=_order)


def _first_lines(paths: Iterable[Path]) -> Iterator[Line]:
    return (line for path in paths if path.is_file() for line in itertools.islice(iter_jsonl(path), 1))


def _order(row: Mapping[str, Any]) -> Path:
    return file_order(audio_paths(row)[0])


def _in_turns(parts: Sequence[Iterator[Row]], paths: Sequence[Path]) -> Iterator[Row]:
    """One file of each shard after the other, which is their order if all have seen the same folder."""
    before: Row | None = None
    ids = temporary_tables("ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
    ended: int | None = None  # the first shard without a further file; those after it must have none either
    for place in itertools.cycle(range(len(parts))):
        row = next(parts[place], None)
        if place == ended:
            return
        if row is None:
            ended = place if ended is None else ended
            continue
        fits = ended is None and (before is None or _follows(row, before))
        if fits and "id" in row:
            fits = bool(ids.execute("INSERT OR IGNORE INTO ids VALUES (?)", (row["id"],)).rowcount)
        if not fits:
            raise InputError(
                f"{paths[place]} and the other shards are not of the same files (at {row['audio_filepath']}): the "
                "folder has changed in between; list it again with --overwrite"
            )
        before = row
        yield row


def _follows(row: Row, before: Row) -> bool:
    """Whether it comes after; two files without use may have one name, where theirs are not UTF-8."""
    return _order(before) < _order(row) or (_order(before) == _order(row) and "error" in row and "error" in before)
