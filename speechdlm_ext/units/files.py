"""Unit files: JSON lines ``{"audio": id, "unitA": "7 376 …", "unitB": "…"}``, one conversation a line."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import decode_line, write_jsonl

# A run of an hour at 50 Hz, and a conversation of a day, are mistakes, and would take all memory.
_LONGEST_RUN, _LONGEST_ROW = 3600 * 50, 24 * 3600 * 50
_DIGITS = 18  # of a number in 64 bits

FRAME_RATE = 50.0  # in Hz, of rows that do not say theirs
DURATIONS = ".durations"  # after a channel's name: the field with the frames of each of its runs, when deduplicated


def channel_names(count: int) -> list[str]:
    """The names of ``count`` channels: unitA, unitB, …

    Raises:
        InputError: fewer than 1 or more than 26.
    """
    if not 1 <= count <= len(ascii_uppercase):
        raise InputError(f"{count} channels: 1 to {len(ascii_uppercase)} are expected")
    return [f"unit{letter}" for letter in ascii_uppercase[:count]]


def parse_units(text: str) -> list[int]:
    """Units from a line of them, ``"7 376 …"``.

    Raises:
        InputError: something in it is not a number from 0 up, or of more than 18 digits.
    """
    units = []
    for word in text.split():
        if not (word.isascii() and word.isdigit()) or len(word) > _DIGITS:
            raise InputError(f"unit {word[:30]!r}: a number from 0 up is expected, of {_DIGITS} digits at most")
        units.append(int(word))
    return units


def format_units(units: Iterable[int]) -> str:
    """A line of units, ``"7 376 …"``."""
    return " ".join(map(str, units))


def row_channels(row: Mapping[str, Any]) -> list[str]:
    """The names of the channels in a row of a unit file, in order: unitA, unitB, …

    Raises:
        InputError: there is none, or one is skipped.
    """
    found = sorted(key for key in row if key.startswith("unit") and len(key) == 5 and key[4] in ascii_uppercase)
    if not found or found != channel_names(len(found)):
        raise InputError(
            f"row {row.get('audio', '?')}: channels unitA, unitB, … are expected, found {', '.join(found) or 'none'}"
        )
    return found


def choose_channel(row: Mapping[str, Any], channel: str | None, where: str) -> str:
    """The channel of a row that a model of one is to read: the one that is asked for, or the only one.

    Raises:
        InputError: there are several and none is asked for, or there is none of that name; ``where`` names the row.
    """
    names = row_channels(row)
    if channel is None and len(names) > 1:
        raise InputError(f"{where}: channels {', '.join(names)}, the model is of one: choose with --channel")
    if channel is not None and channel not in names:
        raise InputError(f"{where}: no channel {channel} in it, only {', '.join(names)}")
    return channel or names[0]


def row_units(
    row: Mapping[str, Any], channels: Sequence[str] | None = None, deduplicated: bool = False
) -> list[list[int]]:
    """The units of each channel of a row, equally many in each.

    Args:
        row: a row of a unit file.
        channels: names of the channels; by default those that are there.
        deduplicated: the units are those of runs, so channels may differ in length.

    Raises:
        InputError: a channel is missing or empty, holds something else than units, or is longer than another.
    """
    name = row.get("audio", "?")
    units = [_field(row, channel) for channel in channels or row_channels(row)]
    lengths = [len(channel) for channel in units]
    if len(set(lengths)) > 1 and not deduplicated:
        raise InputError(f"row {name}: channels of unequal length ({', '.join(map(str, lengths))} frames)")
    if not min(lengths):
        raise InputError(f"row {name} has no units")
    return units


def expand_durations(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with one unit a frame and without durations; the same where it is not deduplicated.

    Raises:
        InputError: a channel has other than one duration for each unit, a unit lasts no frame or longer than an hour,
            or all of them longer than a day (at 50 Hz).
    """
    drawn = dict(row)
    for channel in row_channels(row):
        if channel + DURATIONS not in row:
            continue
        units, durations = _field(row, channel), _field(row, channel + DURATIONS)
        if len(units) != len(durations):
            raise InputError(
                f"row {row.get('audio', '?')}, {channel}: {len(units)} units, but {len(durations)} durations"
            )
        if 0 in durations:
            raise InputError(
                f"row {row.get('audio', '?')}, {channel + DURATIONS}: unit number {durations.index(0) + 1} lasts 0 "
                "frames, 1 or more are expected"
            )
        for frames, most, where in ((max(durations, default=0), _LONGEST_RUN, "of one unit"),
                                    (sum(durations), _LONGEST_ROW, "in all")):  # fmt: skip
            if frames > most:
                raise InputError(
                    f"row {row.get('audio', '?')}, {channel + DURATIONS}: {frames} frames {where}, "
                    f"at most {most} are expected"
                )
        drawn[channel] = format_units(u for u, frames in zip(units, durations, strict=True) for _ in range(frames))
        del drawn[channel + DURATIONS]
        if "deduplicated" in drawn:
            drawn["deduplicated"] = False
    return drawn


def frame_rate(row: Mapping[str, Any]) -> float:
    """Frames per second of a row."""
    return float(row.get("frame_rate", FRAME_RATE))


def _field(row: Mapping[str, Any], field: str) -> list[int]:
    name = row.get("audio", "?")
    if field not in row:
        raise InputError(f"row {name} has no channel {field}")
    try:
        return parse_units(row[field])
    except InputError as error:
        raise InputError(f"row {name}, {field}: {error}") from None


class UnitFile:
    """The rows of a unit file, read anew in each iteration: JSON lines, or the Python-dict lines of the public release.

    Python-dict lines are parsed as literals, never evaluated.

    Args:
        path: the file.
        expand: give deduplicated rows one unit a frame (:func:`expand_durations`).

    Raises:
        InputError: (in an iteration) the file is missing or empty, or a line is neither; the message names the line.
    """

    def __init__(self, path: str | os.PathLike[str], expand: bool = False) -> None:
        self.path, self.expand = path, expand

    def __iter__(self) -> Iterator[dict[str, Any]]:
        empty = True
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if text := decode_line(line, number, self.path).strip():
                        row = parse_row(text, f"{self.path}, line {number}")
                        empty = False
                        yield expand_durations(row) if self.expand else row
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such file") from None
        except IsADirectoryError:
            raise InputError(f"{self.path} is a folder, expected a unit file") from None
        if empty:
            raise InputError(f"{self.path} has no rows")


def read_unit_file(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a :class:`UnitFile`."""
    return list(UnitFile(path))


def write_unit_file(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a unit file of JSON lines, whole or not at all."""
    write_jsonl(path, (dict(row) for row in rows))


def parse_row(line: str, where: str) -> dict[str, Any]:
    """A row of a unit file from its line; ``where`` names the line in errors.

    Raises:
        InputError: the line is neither JSON nor a Python literal, or its channels are not strings.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        try:
            row = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InputError(
                f'{where}: neither JSON nor a Python literal; {{"audio": id, "unitA": "7 376 …", …}} is expected'
            ) from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: an object with channels is expected, found {type(row).__name__}")
    for key, value in row.items():
        if isinstance(key, str) and key.startswith("unit") and not isinstance(value, str):
            raise InputError(f"{where}: {key} must be a string of units, found {type(value).__name__}")
    return row
