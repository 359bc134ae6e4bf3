"""Chunks of unit files as numbers: what the processes of ``data_prep/binarize.py`` do, each on its own."""

from __future__ import annotations

import os
import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import DURATIONS, parse_row

BYTES = 8 << 20  # of text in a chunk
END = "</s>"  # what comes after each line


class Chunk(NamedTuple):
    """Some lines of a file, and where their numbers go.

    Attributes:
        path: of the text.
        start: first byte.
        end: the byte after the last.
        channels: of a file of rows; the one channel of a file of text lines.
        rows: whether the file has rows (JSON, or Python literals) and not text lines.
        exact: whether further channels in a row are an error.
        out: prefix of the files that are written for each channel: ``.<channel>.{codes,words,sizes}``.
        known: units that need not be numbers, as they are in a given dictionary.
        keep_empty_lines: whether empty lines are kept, which separate documents.
    """

    path: str
    start: int
    end: int
    channels: tuple[str, ...]
    rows: bool
    exact: bool
    out: str
    known: frozenset[str]
    keep_empty_lines: bool


class Counts(NamedTuple):
    """What a chunk holds: lines of data, and how often each unit occurs in each channel."""

    lines: int
    units: dict[str, dict[str, int]]


def cut(path: str, size: int = BYTES) -> list[tuple[int, int]]:
    """First byte, and the byte after the last, of chunks of whole lines with about ``size`` bytes each."""
    edges = [0]
    with open(path, "rb") as file:
        total = file.seek(0, os.SEEK_END)
        while edges[-1] < total:
            file.seek(min(edges[-1] + size, total))
            file.readline()
            edges.append(file.tell())
    return list(zip(edges, edges[1:], strict=False))


def number_chunk(chunk: Chunk) -> Counts:
    """Write a chunk's units as numbers in the order in which they are met first, and count them.

    Raises:
        InputError: an empty line, something else than units, channels of unequal length; the message names the line.
        OSError: the disk is full, or the file cannot be read.
    """
    columns = [_Column() for _ in chunk.channels]
    lines = 0
    for number, line in enumerate(_lines(chunk), 1):
        try:
            lines += _add_line(columns, line, chunk)
        except InputError as error:
            earlier = [(begin, min(end, chunk.start)) for begin, end in cut(chunk.path) if begin < chunk.start]
            before = sum(1 for begin, end in earlier for _ in _lines(chunk._replace(start=begin, end=end)))
            raise InputError(f"{chunk.path}, line {before + number}: {error}") from None
    for channel, column in zip(chunk.channels, columns, strict=True):
        column.write(f"{chunk.out}.{channel}")
    return Counts(lines, {c: column.counts() for c, column in zip(chunk.channels, columns, strict=True)})


def _add_line(columns: list[_Column], line: str, chunk: Chunk) -> bool:
    """Append a line to each channel; whether it is one of data."""
    if chunk.rows and not line.strip():
        return False
    texts = _channels(line, chunk) if chunk.rows else [line]
    lengths = [column.add(text, chunk.known) for column, text in zip(columns, texts, strict=True)]
    if len(set(lengths)) > 1:
        _check_lengths(dict(zip(chunk.channels, lengths, strict=True)), DURATIONS in line)
    if not min(lengths) and not chunk.keep_empty_lines:
        raise InputError("no units in it; an empty line may only separate documents (--keep-empty-lines)")
    return True


def equally_long(channels: Sequence[str]) -> list[list[str]]:
    """Channels that must have equally many units in each line: all of a dialogue.

    Deduplicated channels that come with their durations (``unitA,unitA.durations``) are sequences of their own, each
    as long as its durations.
    """
    if not any(channel.endswith(DURATIONS) for channel in channels):
        return [list(channels)]
    groups: dict[str, list[str]] = {}
    for channel in channels:
        groups.setdefault(channel.removesuffix(DURATIONS), []).append(channel)
    return list(groups.values())


def _check_lengths(lengths: Mapping[str, int], deduplicated: bool) -> None:
    for together in equally_long(list(lengths)):
        if len({lengths[channel] for channel in together}) > 1:
            found = ", ".join(f"{lengths[channel]} in {channel}" for channel in together)
            advice = f": deduplicated, take one channel or its durations, too (unitA,unitA{DURATIONS})"
            raise InputError(f"channels of unequal length: {found} (frames){advice if deduplicated else ''}")


def _lines(chunk: Chunk) -> Iterator[str]:
    """The lines of a chunk, ended as Python's text files have them."""
    with open(chunk.path, "rb") as file:
        file.seek(chunk.start)
        data = file.read(chunk.end - chunk.start)
    if not chunk.start:
        data = data.removeprefix(BOM_UTF8)  # which Windows editors put first
    text = data.decode(errors="surrogateescape")  # what is not UTF-8 is no unit either, and is named as such
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return iter(text.removesuffix("\n").split("\n") if text else ())


def _channels(line: str, chunk: Chunk) -> list[str]:
    """The units of each channel from a row."""
    try:
        row = parse_row(line.strip(), "the row")
    except InputError as error:
        raise InputError(str(error).removeprefix("the row: ")) from None
    others = {key for key in row if re.fullmatch("unit[A-Z]", str(key))} - set(chunk.channels)
    if chunk.exact and others:
        raise InputError(f"a channel {min(others)}, but the channels are {','.join(chunk.channels)}: see --channels")
    texts = []
    for channel in chunk.channels:
        if not isinstance(row.get(channel), str):
            what = type(row[channel]).__name__ if channel in row else "no such field"
            raise InputError(f"{channel}: a string of units is expected, found {what}")
        texts.append(row[channel])
    return texts


class _Codes(dict[str, int]):
    """Numbers for units, in the order in which they are asked for."""

    known: frozenset[str] = frozenset()

    def __missing__(self, unit: str) -> int:
        if not (unit.isascii() and unit.isdigit()) and unit not in self.known:
            raise InputError(f"unit {unit[:40]!r}: a number from 0 up is expected")
        self[unit] = number = len(self)
        return number


class _Column:
    """One channel of a chunk."""

    def __init__(self) -> None:
        self.codes = _Codes({END: 0})
        self.numbers = array("I")
        self.sizes = array("i")

    def add(self, text: str, known: frozenset[str]) -> int:
        """Append a line and its end; returns its length in frames."""
        self.codes.known = known
        units = text.split()
        self.numbers.extend(map(self.codes.__getitem__, units))
        self.numbers.append(0)
        self.sizes.append(len(units) + 1)
        return len(units)

    def counts(self) -> dict[str, int]:
        counted = np.bincount(np.frombuffer(self.numbers, np.uintc), minlength=len(self.codes))
        return {unit: int(count) for unit, count in zip(self.codes, counted, strict=True) if unit != END}

    def write(self, prefix: str) -> None:
        kind = np.uint16 if len(self.codes) <= 1 << 16 else np.uint32
        _write(f"{prefix}.codes", np.frombuffer(self.numbers, np.uintc).astype(kind))
        _write(f"{prefix}.sizes", np.frombuffer(self.sizes, np.intc).astype(np.int32))
        _write(f"{prefix}.words", np.frombuffer("\n".join(self.codes).encode(), np.uint8))


def read_numbers(prefix: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """What was written for a chunk: its units by number, the numbers of its frames, and the lengths of its lines."""
    with open(f"{prefix}.words", encoding="utf-8") as file:
        words = file.read().split("\n")
    kind = np.uint16 if len(words) <= 1 << 16 else np.uint32
    return words, np.fromfile(f"{prefix}.codes", kind), np.fromfile(f"{prefix}.sizes", np.int32)


def _write(path: str, values: np.ndarray) -> None:
    with open(path, "wb") as file:
        write_array(file, values)


def write_array(file: IO[bytes], values: np.ndarray) -> None:
    """Write an array's bytes; a full disk is an OSError that says so, unlike ``tofile``'s."""
    file.write(np.ascontiguousarray(values).view(np.uint8).data)
