"""A folder to a manifest: which recordings can be used, under what names, and why the others cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.audio import audio_info, check_channels, read_blocks
from speechdlm_ext.io.locking import exclusive
from speechdlm_ext.io.manifest import errors_path, read_jsonl, write_jsonl
from speechdlm_ext.io.pool import available_cores
from speechdlm_ext.io.readers import SUFFIXES
from speechdlm_ext.io.recordings import make_ids, stamp
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.io.sharding import Shard

FRAME_SECONDS = 0.02  # of units: a recording that is shorter gives none


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """All wav, flac, ogg and mp3 files below a folder, absolute and in order of their names (:func:`file_order`).

    Raises:
        InputError: the folder is missing, is none, cannot be read, or has no such file.
    """
    root = Path(folder)
    if not root.exists():
        raise InputError(f"{folder}: no such folder")
    if not root.is_dir():
        raise InputError(f"{folder} is not a folder; a folder of recordings is expected")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: no permission to read it")
    root = Path(os.path.abspath(root))
    paths, seen = [], set()
    for place, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(place, name) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    paths.sort(key=lambda path: (file_order(shown(path)), path))
    if not paths:
        raise InputError(f"{folder} has no audio files ({', '.join(SUFFIXES)}), nor have the folders in it")
    return paths


def shown(path: str | os.PathLike[str]) -> str:
    """The path as text that can be printed and kept, also where the name is not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def file_order(path: str) -> Path:
    """By what files are sorted, from their names as manifests and errors files have them: folder by folder."""
    return Path(path)


def scan_recordings(
    paths: Sequence[Path],
    ids: Sequence[str],
    channels: int | None = None,
    min_seconds: float = FRAME_SECONDS,
    workers: int = 0,
    check: str = "full",
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Read every file and say what it is, each as soon as that is known, so that none waits for another.

    Args:
        paths: audio files.
        ids: their names.
        channels: number of channels that a recording must have; None for any number.
        min_seconds: shorter recordings are skipped.
        workers: files read at a time; 0 is one for each core.
        check: ``"full"`` reads each file through, which finds damage, silence and clipping; ``"header"`` does not.

    Yields:
        The file's place in ``paths``, with a manifest row ``{"id", "audio_filepath", "duration" (s), "channels",
        "sample_rate"}``, with ``"notes"`` where something is odd but harmless; or with ``{"audio_filepath", "error"}``
        for a file that is of no use.
    """
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        try:
            places = {
                pool.submit(_scan, name, path, channels, min_seconds, check): place
                for place, (name, path) in enumerate(zip(ids, paths, strict=True))
            }
            for done in as_completed(places):
                yield places.pop(done), done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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
) -> tuple[list[dict[str, Any]], int]:
    """Scan a folder and write its manifest; ``PATH.partial`` keeps what was read, should it be stopped.

    Args:
        folder: searched to its depths.
        path: the manifest; that of a shard is ``PATH.shard-<index>-of-<count>``.
        channels, min_seconds, workers, check: as :func:`scan_recordings` has them.
        overwrite, say: as :func:`write_manifest` has them.
        progress: wraps what :func:`scan_recordings` gives, and is told how many files there are still to read.
        shard: the part of the files to read, by their order; ids are those of one run.

    Returns:
        The rows of the manifest, and the number of audio files.

    Raises:
        InputError: as :func:`find_audio` and :func:`write_manifest`.
    """
    path, paths = Path(path), find_audio(folder)
    ids = make_ids(paths)
    if shard is not None:
        path, paths, ids = shard.path(path), shard.take(paths), shard.take(ids)
    partial = path.with_name(path.name + ".partial")
    with ResumeLog(partial, {"channels": channels, "min_seconds": min_seconds, "check": check}) as journal:
        stamps = [stamp(os.fspath(file)) for file in paths]
        names = [os.fsencode(file).decode(errors="backslashreplace") for file in paths]
        known = [journal.entries.get(name, {}).get("stamp") == own for name, own in zip(names, stamps, strict=True)]
        to_do = [place for place, done in enumerate(known) if not done]
        if len(to_do) < len(paths):
            say(f"{len(paths) - len(to_do)} of {len(paths)} files were read before")
        scanned = scan_recordings(
            [paths[place] for place in to_do], [ids[place] for place in to_do], channels, min_seconds, workers, check
        )
        with closing(scanned):
            for number, row in progress(scanned, len(to_do)):
                place = to_do[number]
                journal.add(names[place], {"stamp": stamps[place], "row": row})
        rows = [dict(journal.entries[name]["row"]) for name in names]
        for name, row in zip(ids, rows, strict=True):
            if "error" not in row:
                row["id"] = name
        if all("error" in row for row in rows):
            journal.remove()  # there is nothing to go on with
        used = write_manifest(path, rows, overwrite, say, may_be_empty=shard is not None)
        journal.remove()
    return used, len(paths)


def write_manifest(
    path: str | os.PathLike[str],
    rows: Sequence[dict[str, Any]],
    overwrite: bool = False,
    say: Callable[[str], object] = print,
    may_be_empty: bool = False,
) -> list[dict[str, Any]]:
    """Write what :func:`scan_recordings` found: usable recordings to ``path``, the others to ``path.errors``.

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
    path = Path(path)
    used = [row for row in rows if "error" not in row]
    left_out = [row for row in rows if "error" in row]
    for row in left_out:
        say(f"skipped: {row['error']}")
    for row in used:
        for note in row.get("notes", ()):
            say(f"note: {row['audio_filepath']}: {note}")
    rates = sorted({row["sample_rate"] for row in used} - {16000})
    if rates:
        say(f"note: recordings at {', '.join(map(str, rates))} Hz will be resampled by the encoder to its own rate")
    if not used and not may_be_empty:
        raise InputError(f"none of {len(rows)} audio files can be used; the first: {left_out[0]['error']}")
    with exclusive(path):
        if path.exists() and not overwrite and read_jsonl(path) != used:
            raise InputError(f"{path} is there already and says something else: pass --overwrite to replace it")
        errors = errors_path(path)
        if left_out:
            write_jsonl(errors, left_out)
        else:
            errors.unlink(missing_ok=True)
        write_jsonl(path, used)
    return used


def _scan(name: str, path: Path, channels: int | None, min_seconds: float, check: str) -> dict[str, Any]:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return {"audio_filepath": shown(path), "error": f"{shown(path)}: a file name that is not UTF-8; rename it"}
    try:
        info = audio_info(path)
        peaks, clipped = [float(check == "header")] * info.channels, 0
        if check == "header":
            check_channels(path, info.channels, channels)
        for block in read_blocks(path, channels=channels) if check == "full" else ():
            magnitudes = block.abs()
            peaks = [max(pair) for pair in zip(peaks, magnitudes.amax(dim=1).tolist(), strict=True)]
            clipped += int((magnitudes >= 0.9999).sum())
        if info.duration < min_seconds:
            raise InputError(f"{path} is {info.duration:.3f} s long, at least {min_seconds:g} s are needed")
        if not any(peaks):
            raise InputError(f"{path} is silent: every sample is zero")
    except (InputError, OSError) as error:
        return {"audio_filepath": str(path), "error": one_line(error)}
    row: dict[str, Any] = {
        "id": name,
        "audio_filepath": str(path),
        "duration": round(info.duration, 6),
        "channels": info.channels,
        "sample_rate": info.sample_rate,
    }
    notes = [f"channel {number} is silent" for number, peak in enumerate(peaks, 1) if not peak]
    if clipped > 1e-3 * info.frames:
        notes.append(f"clipped: {clipped} samples at full scale")
    if notes:
        row["notes"] = notes
    return row
