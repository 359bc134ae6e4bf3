"""Features of many recordings in one file, or in a file for each shard; it can be stopped and started again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.recordings import recording_seconds, recording_stamp
from speechdlm_ext.io.resume_log import ResumeLog, read_resume_log
from speechdlm_ext.io.sharding import Shard, remove_shards, shard_paths
from speechdlm_ext.units.kmeans import Drawn, draw_features

Progress = Callable[[Iterable[Drawn], float], Iterable[Drawn]]


def dump_features(
    rows: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    path: str | os.PathLike[str],
    share: float,
    seed: int,
    progress: Progress = lambda items, seconds: items,
    say: Callable[[str], object] = print,
    workers: int = 2,
    dtype: str = "float32",
    shard: Shard | None = None,
) -> tuple[np.ndarray, list[float]]:
    """Write what :func:`draw_features` draws into a NumPy file, recording by recording.

    ``PATH.partial`` keeps account of the recordings that are in the file; a run that was stopped goes on after the
    last of them. It stays, so that another run finds the file complete. Where there are files of shards, what is in
    them is taken instead of drawn, in the order of the manifest, and they are removed when all of it is.

    Args:
        rows: of a manifest.
        encoder: what makes the features.
        path: the file, (n, D) float32; that of a shard is ``PATH.shard-<index>-of-<count>``.
        share: of the frames of each recording.
        seed: of the choice.
        progress: wraps what is drawn, and is told the length of what is still to do, in seconds.
        say: called with lines of text for the user.
        workers: threads that read ahead.
        dtype: of the encoder; features of others are not mixed in.
        shard: the part of the rows to do.

    Returns:
        The features (n, D), mapped from the file, and the active levels of all channels that have sound.

    Raises:
        InputError: no recording could be read (of a shard, that may be), another run is at work on the file, or a
            shard is missing, unfinished, or of other recordings or settings.
    """
    path = Path(path)
    digest = hashlib.sha256(json.dumps([[row["id"], recording_stamp(row)] for row in rows]).encode()).hexdigest()[:16]
    settings: dict[str, Any] = {"encoder": encoder.name, "identity": encoder.identity, "dtype": dtype}
    settings |= {"share": share, "seed": seed, "rows": digest}
    places = list(enumerate(rows))
    if shard is not None:
        path, places = shard.path(path), list(shard.take(places))
    with ResumeLog(path.with_name(path.name + ".partial"), settings) as journal:
        done = _resume(path, encoder.dim, journal)
        to_do = places[done:]
        parts = shard_paths(path) if shard is None and to_do else []
        if done:
            say(f"{done} of {len(places)} recordings are done already")
        if parts:
            accounts = _read_accounts(parts, rows, settings)
            say(f"features of {len(parts)} shards are taken together")
            drawn = _drawn_by_shards(parts, accounts, to_do, encoder.dim)
        else:
            drawn = draw_features(to_do, encoder, share, seed, workers)
        with closing(drawn):
            _append(path, encoder.dim, journal, progress(drawn, sum(recording_seconds(row) for _, row in to_do)), say)
        entries = [journal.entries[row["id"]] for _, row in places]
    if shard is None and all(entry["error"] for entry in entries):
        raise InputError(f"none of {len(rows)} recordings could be read; the first: {entries[0]['error']}")
    remove_shards(path)
    return np.load(path, mmap_mode="r"), [level for entry in entries for level in entry["levels"]]


def _read_accounts(
    parts: Sequence[Path], rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """What each shard's account has, of recordings by id; each must be done."""
    accounts: list[Mapping[str, Any]] = []
    for index, part in enumerate(parts):
        shard = Shard(index, len(parts))
        made_with, account = read_resume_log(part.with_name(part.name + ".partial"))
        if made_with != settings:
            raise InputError(
                f"{part} is of other recordings or settings: run --shard {shard} again with these, or remove it"
            )
        expected = [row["id"] for row in shard.take(rows)]
        done = sum(name in account for name in expected)
        if done < len(expected):
            raise InputError(f"{part} has {done} of {len(expected)} recordings: run --shard {shard} to its end")
        accounts.append(account)
    return accounts


def _drawn_by_shards(
    parts: Sequence[Path],
    accounts: Sequence[Mapping[str, Any]],
    places: Sequence[tuple[int, Mapping[str, Any]]],
    dim: int,
) -> Generator[Drawn, None, None]:
    """What the shards drew, recording by recording."""
    begins = [_begins(account) for account in accounts]
    for place, row in places:
        index = place % len(parts)
        entry, begin = accounts[index][row["id"]], begins[index][row["id"]]
        with open(parts[index], "rb") as file:
            start = _data_start(file)
            file.seek(start + begin * 4 * dim)
            values = np.fromfile(file, np.float32, (entry["end"] - begin) * dim)
        if len(values) < (entry["end"] - begin) * dim:
            raise InputError(f"{parts[index]} is cut off: run --shard {Shard(index, len(parts))} again")
        features = torch.from_numpy(values).view(-1, dim)
        yield Drawn(row, features, entry["levels"], recording_seconds(row), entry["error"])


def _begins(account: Mapping[str, Any]) -> dict[str, int]:
    """The first frame of each recording: where the one before it ends."""
    return dict(zip(account, [0, *(entry["end"] for entry in account.values())], strict=False))


def _append(path: Path, dim: int, journal: ResumeLog, drawn: Iterable[Drawn], say: Callable[[str], object]) -> None:
    from npy_append_array import NpyAppendArray

    if not path.exists():
        with NpyAppendArray(path) as file:
            file.append(np.zeros((0, dim), np.float32))
    with NpyAppendArray(path) as file:
        for item in drawn:
            if item.error is not None:
                say(f"skipped: {item.error}")
            elif len(item.features):
                try:
                    file.append(item.features.numpy())
                except OSError as error:  # which says neither where nor why
                    raise InputError(f"{path} cannot be written ({one_line(error)}): is the disk full?") from None
            journal.add(item.row["id"], {"end": file.shape[0], "levels": item.levels, "error": item.error})


def _resume(path: Path, dim: int, journal: ResumeLog) -> int:
    """Cut the file to the recordings that the journal knows to be whole in it; returns their number."""
    from npy_append_array import recover

    entries = list(journal.entries.values())
    end = entries[-1]["end"] if entries else 0
    try:
        with open(path, "rb") as file:
            start = _data_start(file)
        if (path.stat().st_size - start) // (4 * dim) < end:
            raise ValueError("shorter than the journal says")
        os.truncate(path, start + end * 4 * dim)
        recover(path)
    except (OSError, ValueError):  # not there, or not what the journal speaks of
        path.unlink(missing_ok=True)
        journal.clear()
        return 0
    return len(entries)


def _data_start(file: IO[bytes]) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()


def remove_dump(path: str | os.PathLike[str]) -> None:
    """Delete a file of :func:`dump_features` and what goes with it, shards included."""
    path = Path(path)
    remove_shards(path)
    for name in (path, path.with_name(path.name + ".partial")):
        name.unlink(missing_ok=True)
