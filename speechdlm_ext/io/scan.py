"""A folder to a manifest: which recordings can be used, under what names, and why the others cannot."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.audio import audio_info, check_channels, read_arrays
from speechdlm_ext.io.corpora import Corpus
from speechdlm_ext.io.locking import exclusive
from speechdlm_ext.io.manifest import JsonlRows, errors_path, format_row, iter_jsonl, temporary_tables
from speechdlm_ext.io.naming import NameTable
from speechdlm_ext.io.pool import run_in_threads
from speechdlm_ext.io.readers import SUFFIXES, is_audio
from speechdlm_ext.io.recordings import stamp
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.io.sound_check import SoundCheck

FRAME_SECONDS = 0.02  # of units: a recording that is shorter gives none


class AudioFiles(Sequence[Path]):
    """All sound and video files below a folder, absolute and in order of their names (:func:`file_order`).

    They are known by their names, or by their first bytes. Memory holds none of them: they are in a table on disk.

    Args:
        folder: searched to its depths.
        chosen: which of them count.

    Raises:
        InputError: the folder is missing, is none, cannot be read, or has no such file.
    """

    def __init__(self, folder: str | os.PathLike[str], chosen: Callable[[Path], object] = lambda path: True) -> None:
        root = Path(folder)
        if not root.exists():
            raise InputError(f"{folder}: no such folder")
        if not root.is_dir():
            raise InputError(f"{folder} is not a folder; a folder of recordings is expected")
        if not os.access(root, os.R_OK | os.X_OK):
            raise InputError(f"{folder}: no permission to read it")
        self.table = temporary_tables("found (sorted BLOB, path BLOB)", "files (place INTEGER PRIMARY KEY, path BLOB)")
        every = (path for path in _walk(os.path.abspath(root)) if chosen(Path(path)))
        files = ((shown(path).replace("/", "\0").encode(), os.fsencode(path)) for path in every)
        self.table.executemany("INSERT INTO found VALUES (?, ?)", files)
        self.table.execute("INSERT INTO files (path) SELECT path FROM found ORDER BY sorted, path")  # from 1 on
        self.table.execute("DROP TABLE found")
        self._count = int(self.table.execute("SELECT COUNT(*) FROM files").fetchone()[0])
        if not self._count:
            raise InputError(f"{folder} has no audio files ({', '.join(SUFFIXES[:12])}, …), nor have the folders in it")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Path]:
        for (path,) in self.table.execute("SELECT path FROM files ORDER BY place"):
            yield Path(os.fsdecode(path))

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        found = self.table.execute("SELECT path FROM files WHERE place = ?", (range(len(self))[place] + 1,)).fetchone()
        return Path(os.fsdecode(found[0]))


def _walk(root: str) -> Iterator[str]:
    """The sound and video files below a folder; only names of folders are held in memory."""
    seen, folders = set(), [root]
    while folders:
        folder = folders.pop()
        if (real := os.path.realpath(folder)) in seen:  # a link back up would never end
            continue
        seen.add(real)
        below = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    below.append(entry.path)
                elif is_audio(entry.path):
                    yield entry.path
        folders += sorted(below, reverse=True)


def shown(path: str | os.PathLike[str]) -> str:
    """The path as text that can be printed and kept, also where the name is not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def file_order(path: str) -> Path:
    """By what files are sorted, from their names as manifests and errors files have them: folder by folder."""
    return Path(path)


def make_manifest(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    channels: int | None = None,
    min_seconds: float = FRAME_SECONDS,
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, count: items,
    say: Callable[[str], object] = print,
    shard: Shard | None = None,
    check: str = "full",
    corpus: Corpus | None = None,
) -> tuple[JsonlRows, int]:
    """Scan a folder and write its manifest; ``PATH.partial`` keeps what was read, should it be stopped.

    Args:
        folder: searched to its depths.
        path: the manifest; that of a shard is ``PATH.shard-<index>-of-<count>``.
        channels: number of channels that a recording must have; None for any number.
        min_seconds: shorter recordings are skipped.
        workers: files read at a time; 0 is one for each core.
        overwrite, say: as :func:`write_manifest` has them.
        progress: wraps what is read, and is told how many files there are still to read.
        shard: the part of the files to read, by their order; ids are those of one run. Channels that are files of
            their own stay together: it is the part of the recordings then.
        check: ``"full"`` reads each file through, which finds damage, silence, clipping, DC and channels that are the
            same sound; ``"header"`` does not.
        corpus: a published layout, which says which files are recordings, and their names.

    Returns:
        The rows of the manifest, ``{"id", "audio_filepath", "duration" (s), "channels", "sample_rate"}``, with
        ``"notes"`` where something is odd but harmless; and the number of audio files.

    Raises:
        InputError: as :class:`AudioFiles` and :func:`write_manifest`.
    """
    path, paths = Path(path), AudioFiles(folder) if corpus is None else AudioFiles(folder, corpus.id_of)
    of_files = corpus is not None and corpus.files_of_channels
    scanned_channels = (1 if of_files else corpus.channels) if corpus is not None else channels
    names = NameTable()
    for place, file in enumerate(paths):
        names.add(place, file)
    names.settle()
    index, count = (shard.index, shard.count) if shard is not None else (0, 1)
    path = shard.path(path) if shard is not None else path
    todo = temporary_tables("todo (place INTEGER PRIMARY KEY, path BLOB)")

    def mine() -> Iterator[Path]:
        if corpus is None or not corpus.files_of_channels:
            return itertools.islice(paths, index, None, count)
        recordings = (list(files) for _, files in itertools.groupby(paths, corpus.id_of))
        return itertools.chain.from_iterable(itertools.islice(recordings, index, None, count))

    partial = path.with_name(path.name + ".partial")
    settings = {"channels": scanned_channels, "min_seconds": min_seconds, "check": check}
    with ResumeLog(partial, settings) as journal:
        files = 0
        for file in mine():
            files += 1
            if journal.entries.get(_key(file), {}).get("stamp") != stamp(os.fspath(file)):
                todo.execute("INSERT INTO todo (path) VALUES (?)", (os.fsencode(file),))
        left = int(todo.execute("SELECT COUNT(*) FROM todo").fetchone()[0])
        if left < files:
            say(f"{files - left} of {files} files were read before")
        work = (Path(os.fsdecode(file)) for (file,) in todo.execute("SELECT path FROM todo ORDER BY place"))
        stamps: dict[str, list[int]] = {}

        def stamped() -> Iterator[Path]:
            for file in work:
                stamps[_key(file)] = stamp(os.fspath(file))
                yield file

        def scan(file: Path) -> tuple[Path, dict[str, Any]]:
            return file, _scan(file, scanned_channels, min_seconds, check)

        with closing(run_in_threads(scan, stamped(), workers)) as scanned:
            for file, row in progress(scanned, left):
                journal.add(_key(file), {"stamp": stamps.pop(_key(file)), "row": row})

        def rows() -> Iterator[dict[str, Any]]:
            for place, file in enumerate(mine()):
                row = journal.entries[_key(file)]["row"]
                # A corpus names its recordings itself.
                yield row if "error" in row or corpus is not None else {"id": names[index + count * place], **row}

        listed = rows() if corpus is None else corpus.rows(rows(), Path(folder), channels)

        try:
            write_manifest(path, listed, overwrite, say, may_be_empty=shard is not None)
        except NoneUsable:
            journal.remove()  # there is nothing to go on with
            raise
        journal.remove()
    return JsonlRows(path), files


class NoneUsable(InputError):
    """No recording can be used."""


def write_manifest(
    path: str | os.PathLike[str],
    rows: Iterable[dict[str, Any]],
    overwrite: bool = False,
    say: Callable[[str], object] = print,
    may_be_empty: bool = False,
) -> JsonlRows:
    """Write what was found: usable recordings to ``path``, the others, with their ``error``, to ``path.errors``.

    Args:
        path: the manifest.
        rows: as scanned, in order.
        overwrite: replace a manifest that says something else.
        say: called with a line of text for each file skipped and for each oddity.
        may_be_empty: write a manifest without rows where no file can be used, as for one shard of several.

    Returns:
        The rows of the manifest.

    Raises:
        InputError: there is no usable recording, another manifest is there, or another run is at work on it.
    """
    path, errors = Path(path), errors_path(path)
    used = skipped = 0
    first, rates = "", set()
    known, same = iter_jsonl(path) if path.exists() and not overwrite else iter(()), True
    with exclusive(path), atomic_write(path) as good, atomic_write(errors) as bad:
        for row in rows:
            if "error" in row:
                say(f"skipped: {row['error']}")
                first, skipped = first or row["error"], skipped + 1
                bad.write(format_row(row))
                continue
            for note in row.get("notes", ()):
                say(f"note: {row['audio_filepath']}: {note}")
            rates.add(row["sample_rate"])
            used += 1
            same = same and getattr(next(known, None), "row", None) == row
            good.write(format_row(row))
        if others := sorted(rates - {16000}):
            say(
                f"note: recordings at {', '.join(map(str, others))} Hz will be resampled by the encoder to its own rate"
            )
        if not used and not may_be_empty:
            raise NoneUsable(f"none of {skipped} audio files can be used; the first: {first}")
        if not overwrite and path.exists() and (not same or next(known, None)):
            raise InputError(f"{path} is there already and says something else: pass --overwrite to replace it")
    if not skipped:
        errors.unlink(missing_ok=True)
    return JsonlRows(path)


def _key(file: Path) -> str:
    return os.fsencode(file).decode(errors="backslashreplace")


def _scan(path: Path, channels: int | None, min_seconds: float, check: str) -> dict[str, Any]:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return {"audio_filepath": shown(path), "error": f"{shown(path)}: a file name that is not UTF-8; rename it"}
    try:
        info = audio_info(path)
        check_channels(path, info.channels, channels)
        sound = SoundCheck(info.sample_rate)
        for block in read_arrays(path) if check == "full" else ():
            sound.add(block)
        frames = sound.frames if check == "full" else info.frames
        if frames / info.sample_rate < min_seconds:
            seconds = frames / info.sample_rate
            raise InputError(f"{path} is {seconds:.3f} s long, at least {min_seconds:g} s are needed")
        if check == "full" and not any(sound.peaks):
            raise InputError(f"{path} is silent: every sample is zero")
    except (InputError, OSError) as error:
        return {"audio_filepath": str(path), "error": one_line(error)}
    row: dict[str, Any] = {
        "audio_filepath": str(path),
        "duration": round(frames / info.sample_rate, 6),
        "channels": info.channels,
        "sample_rate": info.sample_rate,
    }
    if notes := [*info.notes, *sound.notes()]:
        row["notes"] = notes
    return row
