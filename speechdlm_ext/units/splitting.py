"""Unit files to training and validation data: segments, and the text lines that fairseq-preprocess reads."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.units.files import (
    DURATIONS,
    expand_durations,
    read_unit_file,
    row_channels,
    row_units,
    write_unit_file,
)
from speechdlm_ext.units.segments import cut_row, frame_rate


@dataclass
class Split:
    """Segments for training, for validation and for a last test; none of one is part of one of the others.

    Attributes:
        train: rows of a unit file with ``audio`` (segment), ``recording``, ``start`` (s) and ``duration`` (s).
        valid: the same.
        test: the same; empty where none was asked for.
        by_recording: whether whole recordings are held out, and not the tail of each.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    valid: list[dict[str, Any]] = field(default_factory=list)
    test: list[dict[str, Any]] = field(default_factory=list)
    by_recording: bool = True

    def parts(self) -> dict[str, list[dict[str, Any]]]:
        """The parts by name, those that there are."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: rows for name, rows in named.items() if rows}


def split_rows(
    rows: Sequence[Mapping[str, Any]],
    valid: float = 0.1,
    segment_seconds: float = 60.0,
    min_seconds: float = 2.0,
    seed: int = 1,
    test: float = 0.0,
    mixed: bool = False,
) -> Split:
    """Hold out a share of the recordings, and cut all into segments.

    Whole recordings, drawn at random, are held out if some of them make up between half and twice the wanted share of
    the time; else the tail of every recording that is long enough. Each part is cut into the fewest segments
    that are no longer than ``segment_seconds``, all about equally long. Copies of a recording at other speeds
    (``copy_of``) are for training only, without what is held out of the recording.

    Deduplicated rows stay so: they are cut between frames, and a run across a cut is one of each side, with the frames
    that it has there.

    Args:
        rows: of a unit file.
        valid: share of the time to hold out, between 0 and 1.
        segment_seconds: longest segment, in seconds.
        min_seconds: a held-out tail is not shorter than this, in seconds.
        seed: of the choice.
        test: share of the time to hold out beside that, in whole recordings: none of it is seen before the end.
        mixed: whether rows may have different channels, as for training a vocoder.

    Raises:
        InputError: a row is not right, channels differ between rows, or there is too little to hold anything out.
    """
    if not 0 < valid < 1:
        raise InputError(f"--valid {valid}: a share between 0 and 1 is wanted")
    if not 0 <= test < 1 - valid:
        raise InputError(f"--test {test}: a share from 0 on is wanted, and less than 1 together with --valid {valid}")
    if not segment_seconds > 0:
        raise InputError(f"--segment-seconds {segment_seconds}: more than 0 is wanted")
    _check(rows, mixed)
    frames = {row["audio"]: len(row_units(expand_durations(row))[0]) for row in rows}
    originals = [row for row in rows if "copy_of" not in row]
    lengths = {row["audio"]: frames[row["audio"]] / frame_rate(row) for row in originals}
    tested = _choose(lengths, test, seed) if test else set()
    others = {name: seconds for name, seconds in lengths.items() if name not in tested}
    held_out = _choose(others, valid * sum(lengths.values()) / sum(others.values()), seed)
    if test and not (tested and held_out):
        raise InputError(
            f"--test {test:g}: no choice among {len(originals)} recordings comes near that and --valid {valid:g}: take "
            "more recordings or other shares"
        )
    split = Split(by_recording=bool(held_out))
    for row in rows:
        name, length = row.get("copy_of", row["audio"]), frames[row["audio"]]
        if name not in lengths:
            raise InputError(f"row {row['audio']} is a copy of {name}, which is not there")
        tail = 0
        if name in held_out | tested:
            tail = length
        elif not held_out and min(valid, 1 - valid) * lengths[name] >= min_seconds:
            tail = math.ceil(valid * length) if "copy_of" in row else round(valid * length)
        split.train += cut_row(row, 0, length - tail, segment_seconds)
        if "copy_of" not in row:
            part = split.test if name in tested else split.valid
            part += cut_row(row, length - tail, length, segment_seconds)
    if not split.train or not split.valid:
        raise InputError(
            f"{sum(lengths.values()):.1f} s in {len(originals)} recordings is too little to hold out {valid:g} of it "
            f"(at least {min_seconds:g} s): take more recordings or another --valid"
        )
    return split


def write_split(
    folder: str | os.PathLike[str], split: Split, overwrite: bool = False, jsonl_only: bool = False
) -> None:
    """Write ``{train,valid}.jsonl``, ``{train,valid}.<channel>`` and ``dict.txt`` into a folder.

    The text files have one segment a line and are what ``fairseq-preprocess`` reads; of deduplicated units there are
    ``{train,valid}.<channel>.durations`` as well. ``dict.txt`` is a dictionary for its ``--srcdict`` with the units of
    all channels, so that no channel has one that the dictionary lacks.

    Args:
        folder: where to write.
        split: what to write.
        overwrite: replace another split that is there.
        jsonl_only: write nothing but the ``.jsonl`` files, whose rows may have different channels.

    Raises:
        InputError: another split is there.
    """
    folder = Path(folder)
    parts = split.parts()
    channels = list(dict.fromkeys(name for rows in parts.values() for row in rows for name in row_channels(row)))
    for name in ("train", "valid", "test"):
        path = folder / f"{name}.jsonl"
        if not overwrite and path.exists() and read_unit_file(path) != parts.get(name):
            raise InputError(f"{folder} has another split already: pass --overwrite to replace it")
    if jsonl_only:
        (folder / "dict.txt").unlink(missing_ok=True)
    else:
        _write_dictionary(folder / "dict.txt", parts, channels)
    streams = [name for channel in channels for name in (channel, channel + DURATIONS)]
    there = [name for name in streams if name in split.train[0] and not jsonl_only]
    for name in ("test", "valid", "train"):
        for stream in streams:
            if name in parts and stream in there:
                with atomic_write(folder / f"{name}.{stream}") as file:
                    file.writelines(row[stream] + "\n" for row in parts[name])
            else:
                (folder / f"{name}.{stream}").unlink(missing_ok=True)  # of the split that this one replaces
        if name in parts:
            write_unit_file(folder / f"{name}.jsonl", parts[name])
        else:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)


def _write_dictionary(path: Path, parts: Mapping[str, Sequence[Mapping[str, Any]]], channels: Sequence[str]) -> None:
    counts = Counter(unit for rows in parts.values() for row in rows for name in channels for unit in row[name].split())
    with atomic_write(path) as file:
        file.writelines(
            f"{unit} {counts[unit]}\n" for unit in sorted(counts, key=lambda unit: (-counts[unit], int(unit)))
        )


def _check(rows: Sequence[Mapping[str, Any]], mixed: bool) -> None:
    if not rows:
        raise InputError("no rows to split")
    seen: set[str] = set()
    for row in rows:
        name = row.get("audio")
        if not isinstance(name, str) or not name or name in seen:
            raise InputError(f'"audio": {name!r}: a name that no other row has is wanted')
        seen.add(name)
        channels = row_channels(row)
        if channels != row_channels(rows[0]) and not mixed:
            raise InputError(
                f"row {name} has the channels {', '.join(channels)}, row {rows[0]['audio']} has "
                f"{', '.join(row_channels(rows[0]))}: to train a vocoder, pass --jsonl-only; for other models, list "
                "and encode the recordings of each number of channels by themselves (make_manifest.py --channels)"
            )
        timed = [channel + DURATIONS in row for channel in channels]
        if len({*timed, channels[0] + DURATIONS in rows[0]}) > 1:
            raise InputError(f"row {name}: either all channels of all rows have durations, or none")


def _choose(lengths: Mapping[str, float], share: float, seed: int) -> set[str]:
    """Recordings to hold out, by name; none if no choice comes near the share that is wanted."""
    total = sum(lengths.values())
    order = list(lengths)
    random.Random(seed).shuffle(order)
    chosen: set[str] = set()
    seconds = 0.0
    for name in order:
        # Nothing that leaves the sum farther from the aim than it was.
        if abs(seconds + lengths[name] - share * total) < abs(seconds - share * total):
            chosen.add(name)
            seconds += lengths[name]
    near = share / 2 <= seconds / total <= min(2 * share, (1 + share) / 2)
    return chosen if near and len(chosen) < len(lengths) else set()
