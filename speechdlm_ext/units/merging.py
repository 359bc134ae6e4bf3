"""The results of shards joined, in the order of the manifest that they were made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import exclusive
from speechdlm_ext.io.manifest import errors_path, read_jsonl, write_jsonl
from speechdlm_ext.io.recordings import audio_paths, read_manifest
from speechdlm_ext.io.scan_shards import are_listings, join_listings
from speechdlm_ext.io.sharding import shard_paths
from speechdlm_ext.units.files import DURATIONS

_NAMED = 5  # items that a message names


@dataclass
class _Results:
    """What the shards have, by item.

    Attributes:
        rows: the results.
        errors: of items that were left out.
        order: places of copies (``copy_of``), which are not in the manifest: their speed's, and the original's.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    order: dict[str, tuple[int, int]] = field(default_factory=dict)

    def copies(self) -> list[str]:
        """Items that are copies at other speeds, in the order of one run."""
        return sorted(self.order, key=self.order.__getitem__)


def merge(
    manifest: str | os.PathLike[str],
    shards: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    into: str | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
    say: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Join shards into the manifest that they were made from, or into one file of their own.

    Shards of the manifest itself, which are not results for its recordings, become the manifest of one run.

    A shard is a unit file, whose rows are named by ``audio``, or any JSON lines that are named by ``id`` or
    ``audio_filepath``. The output of a sharded command stands for all of its shards (``units.jsonl`` for
    ``units.jsonl.shard-0-of-2`` and ``units.jsonl.shard-1-of-2``). Items that the shards' ``.errors`` files account
    for are not missing; they are listed in ``OUTPUT.errors``, if there is an output.

    Args:
        manifest: the recordings.
        shards: files of results; by default those of the manifest itself.
        output: where to write; by default the manifest itself.
        into: ``"manifest"``: its rows with the fields of the results added, none dropped; ``"units"``: the rows of the
            unit files as they are, as one run would have written them. By default units where the shards are unit
            files and there is an output, else the manifest.
        allow_missing: go on without items that are not in any shard.
        overwrite: replace another output, and fields that the manifest has with other values.
        say: called with lines of text for the user.

    Returns:
        The rows that were written.

    Raises:
        InputError: items are missing, doubled with different results, or not in the manifest; something else is there.
    """
    target = Path(manifest if output is None else output)
    paths = [path for name in shards for path in _paths(name)] if shards else _own_shards(manifest)
    if into != "units" and are_listings(manifest, paths):
        return join_listings(paths, target, allow_missing, overwrite, say)
    with exclusive(target):
        wanted = read_manifest(manifest)
        ids = [row["id"] for row in wanted]
        found = _read(paths, wanted, os.path.dirname(os.path.abspath(manifest)), say)
        are_units = all("audio" in row and "unitA" in row for row in found.rows.values())
        into = into or ("units" if are_units and output is not None else "manifest")
        _check(found, ids, allow_missing, say)
        if into == "units":
            rows = [found.rows[name] for name in (*ids, *found.copies()) if name in found.rows]
        else:
            rows = _joined(read_jsonl(manifest), ids, found, overwrite)
        if output is not None and target.exists() and not overwrite and read_jsonl(target) != rows:
            raise InputError(f"{target} is there already and says something else: pass --overwrite to replace it")
        if output is not None:  # beside the manifest lies what was left out of that
            left_out = [found.errors[name] for name in (*ids, *found.copies()) if name in found.errors]
            if left_out:
                write_jsonl(errors_path(target), left_out)
            else:
                errors_path(target).unlink(missing_ok=True)
        write_jsonl(target, rows)
    return rows


def _paths(name: str | os.PathLike[str]) -> list[Path]:
    """The file, or the shards of the output of this name."""
    found = [Path(name)] if os.path.isfile(name) else shard_paths(name)
    if not found:
        raise InputError(f"{name}: no such file, nor {name}.shard-0-of-…")
    return found


def _own_shards(manifest: str | os.PathLike[str]) -> list[Path]:
    found = shard_paths(manifest)
    if not found:
        raise InputError(f"no {manifest}.shard-0-of-…: name the shards, or the output that they are of")
    return found


def _read(
    paths: Sequence[Path], wanted: Sequence[Mapping[str, Any]], folder: str, say: Callable[[str], object]
) -> _Results:
    """All results, each item once."""
    found, where = _Results(), dict[str, Path]()
    places = {row["id"]: place for place, row in enumerate(wanted)}
    names = _names_by_audio(wanted)
    same: list[str] = []
    shards = [read_jsonl(path) for path in paths]
    ranks = _speed_ranks(shards)
    for path, rows in zip(paths, shards, strict=True):
        for number, row in enumerate(rows, 1):
            name = _name(row, names, folder, f"{path}, row {number}")
            _place(found, name, row, places, ranks, f"{path}, row {number}")
            if name not in found.rows:
                found.rows[name], where[name] = row, path
            elif found.rows[name] == row:
                same.append(name)
            else:
                raise InputError(f"{name} is in {where[name]} and, with another result, in {path}: remove one of them")
        if errors_path(path).is_file():
            for number, row in enumerate(read_jsonl(errors_path(path)), 1):
                name = _name(row, names, folder, f"{errors_path(path)}, row {number}")
                _place(found, name, row, places, ranks, f"{errors_path(path)}, row {number}")
                found.errors[name] = row
    if same:
        say(f"{len(same)} items are there more than once, with the same result: {_listed(same)}")
    found.errors = {name: row for name, row in found.errors.items() if name not in found.rows}
    return found


def _speed_ranks(shards: Sequence[Sequence[Mapping[str, Any]]]) -> dict[float, int]:
    """The speeds of copies in the order that the command was given, which every shard keeps."""
    orders = [list(dict.fromkeys(row["speed"] for row in rows if "speed" in row)) for rows in shards]
    longest = max(orders, key=len, default=[])
    every = dict.fromkeys([*longest, *(speed for order in orders for speed in order)])
    return {speed: rank for rank, speed in enumerate(every)}


def _names_by_audio(wanted: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The item of each audio file that one item alone has."""
    names: dict[str, str] = {}
    doubled = set()
    for row in wanted:
        for path in map(os.path.normpath, audio_paths(row)):
            doubled |= {path} & names.keys()
            names[path] = row["id"]
    return {path: name for path, name in names.items() if path not in doubled}


def _name(row: Mapping[str, Any], names: Mapping[str, str], folder: str, where: str) -> str:
    for key in ("audio", "id"):
        if isinstance(row.get(key), str):
            return str(row[key])
    audio = row.get("audio_filepath")
    path = audio[0] if isinstance(audio, list) and audio else audio
    if not isinstance(path, str):
        raise InputError(f'{where}: "id" or "audio_filepath" is wanted, to tell whose result it is')
    path = os.path.normpath(os.path.join(folder, path))
    if path not in names:
        raise InputError(f"{where}: {path} is not in the manifest, or more than once")
    return names[path]


def _place(
    found: _Results,
    name: str,
    row: Mapping[str, Any],
    places: Mapping[str, int],
    ranks: Mapping[float, int],
    where: str,
) -> None:
    original = row.get("copy_of", name)
    if original not in places:
        raise InputError(f"{where}: {original} is not in the manifest")
    if original != name:
        found.order[name] = (ranks.get(row["speed"], len(ranks)), places[original])


def _check(found: _Results, ids: Sequence[str], allow_missing: bool, say: Callable[[str], object]) -> None:
    """Raise or say what is missing; results of different kinds do not go together."""
    for key in ("codebook", "frame_rate", "duration_penalty", "num_neighbors", "dtype"):
        values = {repr(row.get(key)) for row in found.rows.values()}
        if len(values) > 1:
            raise InputError(f"the shards differ in {key} ({', '.join(sorted(values))}): they are not of one run")
    if len({"unitA" + DURATIONS in row for row in found.rows.values()}) > 1:
        raise InputError("some shards are deduplicated and some are not: they are not of one run")
    missing = [name for name in ids if name not in found.rows and name not in found.errors]
    if missing:
        message = f"{len(missing)} of {len(ids)} items have no result: {_listed(missing)}"
        if not allow_missing:
            raise InputError(f"{message}; run the shards that are missing, or pass --allow-missing")
        say(message)
    if found.errors:
        say(f"{len(found.errors)} items were left out: {_listed(list(found.errors))}")


def _joined(
    rows: Sequence[Mapping[str, Any]], ids: Sequence[str], found: _Results, overwrite: bool
) -> list[dict[str, Any]]:
    """The manifest's rows with what the results add."""
    if found.order:
        raise InputError(f"{min(found.order)} is a copy at another speed, which a manifest has not: pass --output")
    joined = []
    for name, row in zip(ids, rows, strict=True):
        added = {key: value for key, value in found.rows.get(name, {}).items() if key not in ("id", "audio_filepath")}
        changed = [key for key, value in added.items() if key in row and row[key] != value]
        if changed and not overwrite:
            raise InputError(f"{name}: the manifest has another {changed[0]} already: pass --overwrite to replace it")
        joined.append({**row, **added})
    return joined


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
