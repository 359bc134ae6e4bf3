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
from speechdlm_ext.manifest import atomic_write
from speechdlm_ext.units.files import draw_out, format_units, read_unit_file, row_channels, row_units, write_unit_file

FRAME_RATE = 50.0  # of unit files whose rows do not say theirs


@dataclass
class Split:
    """Segments for training and for validation; none of one is part of one of the other.

    Attributes:
        train: rows of a unit file with ``audio`` (segment), ``recording``, ``start`` (s) and ``duration`` (s).
        valid: the same.
        by_recording: whether whole recordings are held out, and not the tail of each.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    valid: list[dict[str, Any]] = field(default_factory=list)
    by_recording: bool = True


def split_rows(
    rows: Sequence[Mapping[str, Any]],
    valid: float = 0.1,
    segment_seconds: float = 60.0,
    min_seconds: float = 2.0,
    seed: int = 1,
) -> Split:
    """Hold out a share of the recordings, and cut all into segments.

    Whole recordings, drawn at random, are held out if some of them make up between half and twice the wanted share of
    the time; else the tail of every recording that is long enough. Each part is cut into the fewest segments
    that are no longer than ``segment_seconds``, all about equally long. Copies of a recording at other speeds
    (``copy_of``) are for training only, without what is held out of the recording.

    Args:
        rows: of a unit file.
        valid: share of the time to hold out, between 0 and 1.
        segment_seconds: longest segment, in seconds.
        min_seconds: a held-out tail is not shorter than this, in seconds.
        seed: of the choice.

    Raises:
        InputError: a row is not right, channels differ between rows, or there is too little to hold anything out.
    """
    if not 0 < valid < 1:
        raise InputError(f"--valid {valid}: a share between 0 and 1 is wanted")
    if not segment_seconds > 0:
        raise InputError(f"--segment-seconds {segment_seconds}: more than 0 is wanted")
    rows = [draw_out(row) for row in rows]
    _check(rows)
    originals = [row for row in rows if "copy_of" not in row]
    lengths = {row["audio"]: len(row_units(row)[0]) / _rate(row) for row in originals}
    held_out = {originals[place]["audio"] for place in _choose(list(lengths.values()), valid, seed)}
    split = Split(by_recording=bool(held_out))
    for row in rows:
        name = row.get("copy_of", row["audio"])
        if name not in lengths:
            raise InputError(f"row {row['audio']} is a copy of {name}, which is not there")
        frames = len(row_units(row)[0])
        tail = 0
        if name in held_out:
            tail = frames
        elif not held_out and min(valid, 1 - valid) * lengths[name] >= min_seconds:
            tail = math.ceil(valid * frames) if "copy_of" in row else round(valid * frames)
        split.train += _cut(row, 0, frames - tail, segment_seconds)
        if "copy_of" not in row:
            split.valid += _cut(row, frames - tail, frames, segment_seconds)
    if not split.train or not split.valid:
        raise InputError(
            f"{sum(lengths.values()):.1f} s in {len(originals)} recordings is too little to hold out {valid:g} of it "
            f"(at least {min_seconds:g} s): take more recordings or another --valid"
        )
    return split


def write_split(folder: str | os.PathLike[str], split: Split, overwrite: bool = False) -> None:
    """Write ``{train,valid}.jsonl``, ``{train,valid}.<channel>`` and ``dict.txt`` into a folder.

    The text files have one segment a line and are what ``fairseq-preprocess`` reads. ``dict.txt`` is a dictionary
    for its ``--srcdict`` with the units of all channels, so that no channel has one that the dictionary lacks.

    Args:
        folder: where to write.
        split: what to write.
        overwrite: replace another split that is there.

    Raises:
        InputError: another split is there.
    """
    folder = Path(folder)
    channels = row_channels(split.train[0])
    parts = {"valid": split.valid, "train": split.train}
    for name, rows in parts.items():
        path = folder / f"{name}.jsonl"
        if not overwrite and path.exists() and read_unit_file(path) != rows:
            raise InputError(f"{folder} has another split already: pass --overwrite to replace it")
    counts = Counter(unit for rows in parts.values() for row in rows for name in channels for unit in row[name].split())
    with atomic_write(folder / "dict.txt") as file:
        file.writelines(
            f"{unit} {counts[unit]}\n" for unit in sorted(counts, key=lambda unit: (-counts[unit], int(unit)))
        )
    for name, rows in parts.items():
        for channel in channels:
            with atomic_write(folder / f"{name}.{channel}") as file:
                file.writelines(row[channel] + "\n" for row in rows)
        write_unit_file(folder / f"{name}.jsonl", rows)


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise InputError("no rows to split")
    channels = row_channels(rows[0])
    seen: set[str] = set()
    for row in rows:
        name = row.get("audio")
        if not isinstance(name, str) or not name or name in seen:
            raise InputError(f'"audio": {name!r}: a name that no other row has is wanted')
        seen.add(name)
        if row_channels(row) != channels:
            raise InputError(
                f"row {name} has the channels {', '.join(row_channels(row))}, "
                f"row {rows[0]['audio']} has {', '.join(channels)}"
            )


def _rate(row: Mapping[str, Any]) -> float:
    return float(row.get("frame_rate", FRAME_RATE))


def _choose(lengths: Sequence[float], valid: float, seed: int) -> set[int]:
    """Recordings to hold out; none if no choice comes near the share that is wanted."""
    total = sum(lengths)
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    seconds = 0.0
    for place in order:
        # Nothing that leaves the sum farther from the aim than it was.
        if abs(seconds + lengths[place] - valid * total) < abs(seconds - valid * total):
            chosen.add(place)
            seconds += lengths[place]
    near = valid / 2 <= seconds / total <= min(2 * valid, (1 + valid) / 2)
    return chosen if near and len(chosen) < len(lengths) else set()


def _cut(row: Mapping[str, Any], start: int, stop: int, segment_seconds: float) -> list[dict[str, Any]]:
    """The frames from start to stop as rows of their own."""
    if stop <= start:
        return []
    rate = _rate(row)
    count = -(-(stop - start) // max(1, int(segment_seconds * rate)))
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    channels = row_channels(row)
    units = row_units(row, channels)
    segments = []
    for first, last in zip(edges, edges[1:], strict=False):
        segments.append(
            {
                **row,
                "audio": f"{row['audio']}-{first:07d}",
                **{name: format_units(channel[first:last]) for name, channel in zip(channels, units, strict=True)},
                "recording": row["audio"],
                "start": first / rate,
                "duration": (last - first) / rate,
            }
        )
    return segments
