"""Unit files to training and validation data: segments, and the text lines that fairseq-preprocess reads."""

from __future__ import annotations

import filecmp
import hashlib
import math
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import work_folder
from speechdlm_ext.io.manifest import format_row, temporary_tables
from speechdlm_ext.io.recordings import check_name
from speechdlm_ext.units.files import (
    DURATIONS,
    expand_durations,
    format_units,
    frame_rate,
    parse_units,
    row_channels,
    row_units,
)
from speechdlm_ext.units.vocabulary import Vocabulary

PARTS = ("train", "valid", "test")
_WRITTEN = rf"dict\.txt|(train|valid|test)\.(jsonl|unit[A-Z]({re.escape(DURATIONS)})?)"  # names of files
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """Segments for training, for validation and for a last test; none of one is part of one of the others.

    Iterating over it reads the rows again, and gives each segment with the name of its part: rows of a unit file with
    ``audio`` (segment), ``recording``, ``start`` (s) and ``duration`` (s).

    Attributes:
        rows: that are split.
        by_recording: whether whole recordings are held out, and not the tail of each.
    """

    rows: Iterable[Row]
    by_recording: bool
    valid: float
    segment_seconds: float
    min_seconds: float
    _table: sqlite3.Connection

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in self.rows:
            name, copy = row.get("copy_of", row["audio"]), "copy_of" in row
            found = self._table.execute("SELECT seconds, part FROM recordings WHERE name = ?", (name,)).fetchone()
            (length,) = self._table.execute("SELECT frames FROM recordings WHERE name = ?", (row["audio"],)).fetchone()
            seconds, part = found
            tail = 0
            if part:
                tail = length
            elif not self.by_recording and min(self.valid, 1 - self.valid) * seconds >= self.min_seconds:
                tail = math.ceil(self.valid * length) if copy else round(self.valid * length)
            spans = [("train", span) for span in self._spans(row, 0, length - tail)]
            if not copy:
                spans += [(part or "valid", span) for span in self._spans(row, length - tail, length)]
            yield from zip([part for part, _ in spans], cut_row(row, [span for _, span in spans]), strict=True)

    def _spans(self, row: Row, start: int, stop: int) -> list[tuple[int, int]]:
        """As few segments as can be, about equally long."""
        count = -(-(stop - start) // max(1, int(self.segment_seconds * frame_rate(row))))
        edges = [start + (stop - start) * index // max(count, 1) for index in range(count + 1)]
        return list(zip(edges, edges[1:], strict=False))


def split_rows(
    rows: Iterable[Row],
    valid: float = 0.1,
    segment_seconds: float = 60.0,
    min_seconds: float = 2.0,
    seed: int = 1,
    test: float = 0.0,
    mixed: bool = False,
) -> Split:
    """Hold out a share of the recordings, and cut all into segments.

    Whole recordings are held out if some of them make up between half and twice that share of the time; else the tail
    of every recording that is long enough. Which ones depends on the seed and their names alone. Each part is cut into
    the fewest segments that are no longer than ``segment_seconds``, all about equally long. Copies of a recording at
    other speeds (``copy_of``) are for training only, without what is held out of the recording.

    Deduplicated rows stay so: they are cut between frames, and a run across a cut is one of each side, with the frames
    that it has there.

    Memory holds one row; lengths and names are in a table on disk.

    Args:
        rows: of a unit file; they are read once here and once for each iteration over the result.
        valid: share of the time to hold out, between 0 and 1.
        segment_seconds: longest segment, in seconds.
        min_seconds: a held-out tail is not shorter than this, in seconds.
        seed: of the choice.
        test: share of the time to hold out beside that, in whole recordings.
        mixed: whether rows may have different channels, as for training a vocoder.

    Raises:
        InputError: a row is not right, channels differ between rows, or there is too little to hold anything out.
    """
    if not 0 < valid < 1:
        raise InputError(f"--valid {valid}: expected a share between 0 and 1")
    if not 0 <= test < 1 - valid:
        raise InputError(f"--test {test}: expected a share from 0 on, less than 1 together with --valid {valid}")
    if not segment_seconds > 0:
        raise InputError(f"--segment-seconds {segment_seconds}: expected more than 0")
    table = temporary_tables(
        "recordings (name TEXT PRIMARY KEY, original TEXT, frames INTEGER, seconds REAL, rank BLOB, part TEXT)"
    )
    first: Row | None = None
    for row in rows:
        first = first or row
        _check(row, first, mixed)
        frames = len(row_units(expand_durations(row))[0])
        rank = hashlib.sha256(f"{seed} {row['audio']}".encode()).digest()
        values = (row["audio"], row.get("copy_of"), frames, frames / frame_rate(row), rank)
        try:
            table.execute("INSERT INTO recordings VALUES (?, ?, ?, ?, ?, NULL)", values)
        except sqlite3.IntegrityError:
            raise InputError(f'"audio": {row["audio"]!r}: expected a name that no other row has') from None
    if first is None:
        raise InputError("no rows to split")
    originals = "FROM recordings WHERE original IS NULL"
    lost = table.execute(
        f"SELECT name, original FROM recordings WHERE original NOT IN (SELECT name {originals}) LIMIT 1"
    ).fetchone()
    if lost:
        raise InputError(f"row {lost[0]} is a copy of {lost[1]}, which is not in the file")
    count, total, longest = table.execute(f"SELECT COUNT(*), SUM(seconds), MAX(seconds) {originals}").fetchone()
    tested = _hold_out(table, "test", test * total) if test else False
    held_out = _hold_out(table, "valid", valid * total)
    if test and not (tested and held_out):
        raise InputError(
            f"--test {test:g}: no choice among {count} recordings comes near that and --valid {valid:g}: take "
            "more recordings or other shares"
        )
    if not held_out and min(valid, 1 - valid) * longest < min_seconds:
        raise InputError(
            f"{total:.1f} s in {count} recordings is too little to hold out {valid:g} of it "
            f"(at least {min_seconds:g} s): take more recordings or another --valid"
        )
    return Split(rows, held_out, valid, segment_seconds, min_seconds, table)


def _check(row: Row, first: Row, mixed: bool) -> None:
    name, channels = check_name(row.get("audio"), '"audio":'), row_channels(row)
    if channels != row_channels(first) and not mixed:
        raise InputError(
            f"row {name} has the channels {', '.join(channels)}, row {first['audio']} has "
            f"{', '.join(row_channels(first))}: to train a vocoder, pass --jsonl-only; for other models, list "
            "and encode the recordings of each number of channels by themselves (make_manifest.py --channels)"
        )
    timed = [channel + DURATIONS in row for channel in channels]
    if len({*timed, channels[0] + DURATIONS in first}) > 1:
        raise InputError(f"row {name}: either all channels of all rows have durations, or none")


def _hold_out(table: sqlite3.Connection, part: str, aim: float) -> bool:
    """Mark recordings that make up about ``aim`` seconds; whether some choice among those that are left comes near."""
    free = "FROM recordings WHERE original IS NULL AND part IS NULL"
    total, seconds, chosen = table.execute(f"SELECT SUM(seconds) {free}").fetchone()[0] or 0.0, 0.0, 0
    # Sorted before the first row is marked, as no index has this order.
    for name, length in table.execute(f"SELECT name, seconds {free} ORDER BY rank, name"):
        # Nothing that leaves the sum farther from the aim than it was.
        if abs(seconds + length - aim) < abs(seconds - aim):
            table.execute("UPDATE recordings SET part = ? WHERE name = ?", (part, name))
            seconds, chosen = seconds + length, chosen + 1
    left = table.execute(f"SELECT COUNT(*) {free}").fetchone()[0]
    if chosen and left and aim / 2 <= seconds <= min(2 * aim, (aim + total) / 2):
        return True
    table.execute("UPDATE recordings SET part = NULL WHERE part = ?", (part,))
    return False


def cut_row(row: Row, spans: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Parts of a row of a unit file, (first frame, the frame after the last), as rows of their own.

    Each has ``recording``, ``start`` (s) and ``duration`` (s) beside the fields of the row. Of a run across an edge
    each side has the frames that lie there.

    Raises:
        InputError: a unit lasts for no frame.
    """
    rate = frame_rate(row)
    units = {channel: parse_units(row[channel]) for channel in row_channels(row)}
    durations = {channel: parse_units(row[channel + DURATIONS]) for channel in units if channel + DURATIONS in row}
    ends = {channel: np.array(list(accumulate(frames))) for channel, frames in durations.items()}
    for first, last in spans:
        streams: dict[str, str] = {}
        for channel, labels in units.items():
            begin, end = first, last
            if channel in durations:
                begin = int(np.searchsorted(ends[channel], first, "right"))
                end = int(np.searchsorted(ends[channel], last, "left")) + 1
                frames = durations[channel][begin:end]
                frames[-1] -= int(ends[channel][end - 1]) - last
                frames[0] -= first - (int(ends[channel][begin]) - durations[channel][begin])
                streams[channel + DURATIONS] = format_units(frames)
            streams[channel] = format_units(labels[begin:end])
        yield {
            **row,
            "audio": f"{row['audio']}-{first:07d}",
            **streams,
            "recording": row["audio"],
            "start": first / rate,
            "duration": (last - first) / rate,
        }


def write_split(
    folder: str | os.PathLike[str], split: Split, overwrite: bool = False, jsonl_only: bool = False
) -> dict[str, tuple[int, float]]:
    """Write ``{train,valid}.jsonl``, ``{train,valid}.<channel>`` and ``dict.txt`` into a folder, all of them or none.

    The text files have one segment a line and are what ``fairseq-preprocess`` reads; of deduplicated units there are
    ``{train,valid}.<channel>.durations`` as well. ``dict.txt`` is a dictionary for its ``--srcdict`` with the units of
    all channels, so that no channel has one that the dictionary lacks.

    Args:
        folder: where to write.
        split: what to write.
        overwrite: replace another split that is there.
        jsonl_only: write nothing but the ``.jsonl`` files, whose rows may have different channels.

    Returns:
        The number of segments of each part, and their seconds in all.

    Raises:
        InputError: another split is there, or another run is at work in the folder.
    """
    folder, counts, sizes = Path(folder), Counter[str](), dict[str, tuple[int, float]]()
    with work_folder(folder, ".splitting") as work:
        with ExitStack() as stack:
            files: dict[str, IO[str]] = {}
            for part, row in split:
                channels = row_channels(row)
                written = {f"{part}.jsonl": format_row(row)}
                timed = [channel + DURATIONS for channel in channels if channel + DURATIONS in row]
                if not jsonl_only:
                    written |= {f"{part}.{stream}": row[stream] + "\n" for stream in (*channels, *timed)}
                    counts.update(unit for channel in channels for unit in row[channel].split())
                for name, line in written.items():
                    if name not in files:
                        files[name] = stack.enter_context(open(work / name, "w", encoding="utf-8"))
                    files[name].write(line)
                number, seconds = sizes.get(part, (0, 0.0))
                sizes[part] = number + 1, seconds + row["duration"]
            if not jsonl_only:
                files["dict.txt"] = stack.enter_context(open(work / "dict.txt", "w", encoding="utf-8"))
                Vocabulary.count(counts, multiple=1).write(files["dict.txt"])
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        for part in PARTS:
            old, new = folder / f"{part}.jsonl", work / f"{part}.jsonl"
            same = not old.exists() or new.exists() and filecmp.cmp(old, new, shallow=False)
            if not same and not overwrite:
                raise InputError(f"{folder} has another split already: pass --overwrite to replace it")
        before = [folder / "dict.txt", *(path for part in PARTS for path in folder.glob(f"{part}.*"))]
        for path in before:  # of the split that this one replaces
            if path.name not in files and re.fullmatch(_WRITTEN, path.name):
                path.unlink(missing_ok=True)
        for name in files:
            os.replace(work / name, folder / name)
    return {part: sizes[part] for part in PARTS if part in sizes}
