"""The manifests of shards joined into the one that a single run would have written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import errors_path, read_jsonl
from speechdlm_ext.io.scan import file_order, write_manifest
from speechdlm_ext.io.sharding import Shard, shard_of

Row = dict[str, Any]


def join_listings(
    paths: Sequence[Path],
    output: str | os.PathLike[str],
    allow_missing: bool = False,
    overwrite: bool = False,
    say: Callable[[str], object] = print,
) -> list[Row]:
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
    rows = [_rows(shards[shard]) if shard in shards else [] for shard in every]
    if missing:
        joined = sorted((row for part in rows for row in part), key=_order)
    else:
        joined = list(_in_turns(rows, [shards[shard] for shard in every]))
    left_out = sum("error" in row for row in joined)
    if left_out:
        say(f"{left_out} of {len(joined)} files were skipped: {errors_path(output)}")
    return write_manifest(output, joined, overwrite, say=lambda line: None)


def _rows(path: Path) -> list[Row]:
    """All files of a shard, usable or not, in order."""
    errors = read_jsonl(errors_path(path)) if errors_path(path).is_file() else []
    return sorted([*read_jsonl(path), *errors], key=_order)


def _order(row: Mapping[str, Any]) -> Path:
    return file_order(row["audio_filepath"])


def _in_turns(parts: Sequence[Sequence[Row]], paths: Sequence[Path]) -> Iterator[Row]:
    """One file of each shard after the other, which is their order if all have seen the same folder."""
    rests = [iter(part) for part in parts]
    before: Row | None = None
    ids: set[str] = set()
    for place in range(sum(map(len, parts))):
        row = next(rests[place % len(parts)], None)
        if row is None or (before and not _follows(row, before)) or row.get("id") in ids:
            odd = row or before or {}
            raise InputError(
                f"{paths[place % len(paths)]} and the other shards are not of the same files (at "
                f"{odd.get('audio_filepath')}): the folder has changed in between; list it again with --overwrite"
            )
        if "id" in row:
            ids.add(row["id"])
        before = row
        yield row


def _follows(row: Row, before: Row) -> bool:
    """Whether it comes after; two files without use may have one name, where theirs are not UTF-8."""
    return _order(before) < _order(row) or (_order(before) == _order(row) and "error" in row and "error" in before)
