"""The results of shards joined, in the order of the manifest that they were made from."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import exclusive
from speechdlm_ext.io.manifest import Line, errors_path, iter_jsonl, read_jsonl, row_at, temporary_tables, write_jsonl
from speechdlm_ext.io.recordings import audio_paths, read_manifest, recording_key, with_absolute_paths
from speechdlm_ext.io.scan_shards import join_listings
from speechdlm_ext.io.sharding import shard_paths
from speechdlm_ext.units.files import DURATIONS, UnitFile

_NAMED = 5  # items that a message names
# What all results of one run have in common.
_SETTINGS = ("codebook", "frame_rate", "duration_penalty", "num_neighbors", "dtype", "deduplicated")


def merge(
    manifest: str | os.PathLike[str],
    shards: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    kind: str | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
    say: Callable[[str], object] = print,
) -> int:
    """Join shards into the manifest that they were made from, or into one file of their own.

    A shard is a unit file, whose rows are named by ``audio``, or any JSON lines that are named by ``id`` or
    ``audio_filepath``. The output of a sharded command stands for all of its shards (``units.jsonl`` for
    ``units.jsonl.shard-0-of-2`` and ``units.jsonl.shard-1-of-2``). Items that the shards' ``.errors`` files account
    for are not missing; they are listed in ``OUTPUT.errors``. Memory holds one row at a time.

    Args:
        manifest: the recordings.
        shards: files of results; none for those of the manifest itself.
        output: where to write; may be the manifest.
        kind: ``"manifest"``: shards of the manifest itself become the manifest of one run; ``"units"``: the rows of
            unit files as they are, as one run would have written them; ``"samples"``: likewise those of continued
            prompts, of which ``manifest`` is the unit file; ``"fields"``: the manifest's rows with the fields of the
            results added, none dropped. By default that of shards of the manifest, or that of the first
            row: units where it has ``audio`` and ``unitA`` and the output is not the manifest.
        allow_missing: go on without items that are not in any shard.
        overwrite: replace another output, and fields that the manifest has with other values.
        say: called with lines of text for the user.

    Returns:
        The number of rows that were written.

    Raises:
        InputError: items are missing, doubled with different results, or not in the manifest; something else is there.
    """
    target, inside = Path(output), os.path.abspath(output) == os.path.abspath(manifest)
    paths = [path for name in shards or [manifest] for path in _paths(name, own=not shards)]
    if kind == "manifest" or kind is None and _are_of(manifest, paths):
        return len(join_listings(paths, target, allow_missing, overwrite, say))
    if kind is None:
        first = next((line.row for path in paths for line in iter_jsonl(path)), {})
        kind = "units" if {"audio", "unitA"} <= first.keys() and not inside else "fields"
        kind = "samples" if kind == "units" and isinstance(first.get("seed"), list) else kind
    if kind == "samples":
        return _merge_samples(manifest, paths, target, overwrite)
    with exclusive(target), ExitStack() as stack:
        results = _Results(manifest, paths, stack)
        results.read(say)
        results.check(allow_missing, say)
        rows = results.in_order() if kind == "units" else results.added(overwrite)
        made = target.with_name(f".{target.name}.merged")
        stack.callback(made.unlink, missing_ok=True)
        count = write_jsonl(made, rows)
        if not inside:
            if target.exists() and not overwrite and not _same(target, made):
                raise _another(target)
            # Beside the manifest lies what was skipped when that was made.
            if results.count("error = 1"):
                write_jsonl(errors_path(target), results.in_order(error=1))
            else:
                errors_path(target).unlink(missing_ok=True)
        os.replace(made, target)
    return count


def _merge_samples(prompts: str | os.PathLike[str], paths: Sequence[Path], output: Path, overwrite: bool) -> int:
    """Join continued prompts in the order of their seeds (seed, row, sample), which is that of one run."""
    rows = sorted((line.row for path in paths for line in iter_jsonl(path)), key=lambda row: row["seed"])
    if not rows:
        raise InputError("the shards have no continuations")
    seed, count = rows[0]["seed"][0], sum(1 for _ in UnitFile(prompts))
    samples = 1 + max(row["seed"][2] for row in rows)
    if [row["seed"] for row in rows] != [[seed, row, sample] for row in range(count) for sample in range(samples)]:
        raise InputError(f"the shards have {len(rows)} continuations, expected {samples} of each of {count} prompts")
    if output.exists() and not overwrite and read_jsonl(output) != rows:
        raise _another(output)
    return write_jsonl(output, rows)


def _paths(name: str | os.PathLike[str], own: bool) -> list[Path]:
    """The file, or the shards of the output of this name."""
    found = [Path(name)] if os.path.isfile(name) and not own else shard_paths(name)
    if not found and own:
        raise InputError(f"no {name}.shard-0-of-…: name the shards, or the output that they are of")
    if not found:
        raise InputError(f"{name}: no such file, nor {name}.shard-0-of-…")
    return found


def _are_of(manifest: str | os.PathLike[str], paths: Sequence[Path]) -> bool:
    """Whether these files are named as shards of the manifest."""
    name = os.path.abspath(manifest)
    return all(os.path.abspath(path).startswith(f"{name}.shard-") for path in paths)


def _another(output: Path) -> InputError:
    return InputError(f"{output} is there already and says something else: pass --overwrite to replace it")


def _same(one: Path, other: Path) -> bool:
    """Whether two files have the same rows."""
    rows = iter_jsonl(other)
    return all(next(rows, None) == line for line in iter_jsonl(one)) and next(rows, None) is None


class _Results:
    """Where the results of each item are, in a table on disk."""

    def __init__(self, manifest: str | os.PathLike[str], paths: Sequence[Path], stack: ExitStack) -> None:
        self.manifest, self.paths, self._stack = manifest, paths, stack
        self._folder = os.path.dirname(os.path.abspath(manifest))
        self._files: list[IO[bytes]] = []
        self._table: sqlite3.Connection = temporary_tables(
            "items (id TEXT PRIMARY KEY, place INTEGER)",
            "audio (path TEXT PRIMARY KEY, id TEXT)",  # id is NULL where several items have the file
            "speeds (rank INTEGER PRIMARY KEY, speed REAL)",
            "results (name TEXT, error INTEGER, file INTEGER, offset INTEGER, place INTEGER, speed REAL, "
            "PRIMARY KEY (name, error))",
        )
        self._by_audio = False
        for place, row in enumerate(read_manifest(manifest)):
            self._table.execute("INSERT INTO items VALUES (?, ?)", (row["id"], place))

    def read(self, say: Callable[[str], object]) -> None:
        """Find all results, each item once."""
        same, first, speeds = [], dict[str, str](), list[list[float]]()
        for path in self.paths:
            errors = errors_path(path)
            for source in (path, errors) if errors.is_file() else (path,):
                self._files.append(self._stack.enter_context(open(source, "rb")))  # noqa: SIM115
                order = dict[float, None]()
                for number, line in enumerate(iter_jsonl(source), 1):
                    name, known = self._add(line, int(source == errors), f"{source}, row {number}")
                    if known:
                        same.append(name)
                    if "speed" in line.row:
                        order[line.row["speed"]] = None
                    if source != errors:
                        _check_settings(line.row, first)
                speeds.append(list(order))
        # Copies are in the order in which the command was given their speeds, which every shard keeps.
        longest = max(speeds, key=len, default=[])
        for speed in dict.fromkeys([*longest, *(speed for order in speeds for speed in order)]):
            self._table.execute("INSERT INTO speeds (speed) VALUES (?)", (speed,))
        if same:
            say(f"{len(same)} items are there more than once, with the same result: {_listed(same)}")
        self._table.execute(
            "DELETE FROM results WHERE error = 1 AND name IN (SELECT name FROM results WHERE error = 0)"
        )

    def _add(self, line: Line, error: int, where: str) -> tuple[str, bool]:
        """Note a result; returns the item's name, and whether it has the same result already."""
        name = self._name(line.row, where)
        original = line.row.get("copy_of", name)
        found = self._table.execute("SELECT place FROM items WHERE id = ?", (original,)).fetchone()
        if found is None:
            raise InputError(f"{where}: {original} is not in the manifest")
        speed = None if original == name else line.row["speed"]
        values = (name, error, len(self._files) - 1, line.offset, found[0], speed)
        try:
            self._table.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", values)
            return name, False
        except sqlite3.IntegrityError:
            pass
        if error:
            return name, False
        query = "SELECT file, offset FROM results WHERE name = ? AND error = 0"
        file, offset = self._table.execute(query, (name,)).fetchone()
        if row_at(self._files[file], offset) != line.row:
            raise InputError(
                f"{name} is in {self._files[file].name} and, with another result, in {self._files[-1].name}: "
                "remove one of them"
            )
        return name, True

    def _name(self, row: dict[str, Any], where: str) -> str:
        for key in ("audio", "id"):
            if isinstance(row.get(key), str):
                return str(row[key])
        audio = row.get("audio_filepath")
        path = audio[0] if isinstance(audio, list) and audio else audio
        if not isinstance(path, str):
            raise InputError(f'{where}: expected "id" or "audio_filepath", to tell whose result it is')
        if not self._by_audio:
            self._by_audio = True
            for item in read_manifest(self.manifest):
                for file in (_part_name(item, self._folder), *map(os.path.normpath, audio_paths(item))):
                    self._table.execute(
                        "INSERT INTO audio VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET id = NULL", (file, item["id"])
                    )
        path = os.path.normpath(os.path.join(self._folder, path))
        query = "SELECT id FROM audio WHERE path = ?"
        found = self._table.execute(query, (_part_name(row, self._folder),)).fetchone()
        found = found or self._table.execute(query, (path,)).fetchone()
        if found is None or found[0] is None:
            raise InputError(f"{where}: {path} is not in the manifest, or more than once")
        return str(found[0])

    def count(self, condition: str) -> int:
        """How many results there are."""
        return int(self._table.execute(f"SELECT COUNT(*) FROM results WHERE {condition}").fetchone()[0])

    def check(self, allow_missing: bool, say: Callable[[str], object]) -> None:
        """Raise or say what is missing or was skipped."""
        (items,) = self._table.execute("SELECT COUNT(*) FROM items").fetchone()
        lacking = "FROM items WHERE id NOT IN (SELECT name FROM results)"
        (missing,) = self._table.execute(f"SELECT COUNT(*) {lacking}").fetchone()
        if missing:
            names = self._table.execute(f"SELECT id {lacking} ORDER BY place LIMIT {_NAMED + 1}")
            message = f"{missing} of {items} items have no result: {_listed([name for (name,) in names])}"
            if not allow_missing:
                raise InputError(f"{message}; run the shards that are missing, or pass --allow-missing")
            say(message)
        if failed := self.count("error = 1"):
            names = self._table.execute(f"SELECT name FROM results WHERE error = 1 LIMIT {_NAMED + 1}")
            say(f"{failed} items were skipped: {_listed([name for (name,) in names])}")

    def in_order(self, error: int = 0) -> Iterator[dict[str, Any]]:
        """The results as one run would have written them: in the manifest's order, then copies speed by speed."""
        query = "SELECT file, offset FROM results LEFT JOIN speeds USING (speed) WHERE error = ? ORDER BY rank, place"
        for file, offset in self._table.execute(query, (error,)):
            yield row_at(self._files[file], offset)

    def added(self, overwrite: bool) -> Iterator[dict[str, Any]]:
        """The manifest's rows with what the results add."""
        copy = self._table.execute("SELECT MIN(name) FROM results WHERE speed IS NOT NULL").fetchone()[0]
        if copy:
            raise InputError(f"{copy} is a copy at another speed, which a manifest has not: pass --output")
        query = "SELECT id, file, offset FROM items LEFT JOIN results ON id = name AND error = 0 ORDER BY items.place"
        for (name, file, offset), line in zip(self._table.execute(query), iter_jsonl(self.manifest), strict=True):
            result = {} if file is None else row_at(self._files[file], offset)
            new = {key: value for key, value in result.items() if key not in ("id", "audio_filepath")}
            changed = [key for key, value in new.items() if key in line.row and line.row[key] != value]
            if changed and not overwrite:
                raise InputError(
                    f"{name}: the manifest has another {changed[0]} already: pass --overwrite to replace it"
                )
            yield {**line.row, **new}


def _part_name(row: dict[str, Any], folder: str) -> str:
    """What is read of which files, which tells parts of one recording apart."""
    return recording_key({key: value for key, value in with_absolute_paths(row, folder).items() if key != "id"})


def _check_settings(row: dict[str, Any], first: dict[str, str]) -> None:
    """Raise an InputError where a result was made in another way than the first."""
    found = {key: repr(row.get(key)) for key in _SETTINGS} | {"durations": repr("unitA" + DURATIONS in row)}
    for key, value in found.items():
        if first.setdefault(key, value) != value:
            values = ", ".join(sorted((first[key], value)))
            raise InputError(f"the shards differ in {key} ({values}): they are not of one run")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
