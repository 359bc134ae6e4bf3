"""JSON lines, one object a line: read and written line by line, and tables of lines that do not fit into memory."""

from __future__ import annotations

import copy
import csv
import errno
import json
import os
import sqlite3
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Item = TypeVar("Item")
_TEXTS = ("audio_filepath", "id", "text")  # columns of a table that are no numbers, whatever they look like


class Line(NamedTuple):
    """A row, with the number of its line from 1 on and the byte where the line begins."""

    number: int
    offset: int
    row: dict[str, Any]


def iter_jsonl(path: str | os.PathLike[str]) -> Iterator[Line]:
    """Read a file of one JSON object a line, one after the other; empty lines and a byte order mark are passed over.

    Raises:
        InputError: the file is missing, or a line is not a JSON object; the message names the line.
    """
    try:
        with open(path, "rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if text := decode_line(line, number, path).strip():
                    yield Line(number, offset, _parse(text, path, number))
                offset += len(line)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, expected a file with one JSON object a line") from None


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of :func:`iter_jsonl`."""
    return [line.row for line in iter_jsonl(path)]


def read_table(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The rows of a manifest as CSV, as AMELA has them: ``audio_filepath``, ``duration``, perhaps ``file_id`` (the id).

    Of the lines of ``detect_speech.py`` those with an error, and the second and later channels, are passed over. What
    is empty is left out, and what is a number or a list is one.

    Raises:
        InputError: the file is missing, or has no column ``audio_filepath``.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            if "audio_filepath" not in (lines.fieldnames or ()):
                raise InputError(f"{path}: no column audio_filepath in the first line")
            for line in lines:
                if line.get("error") or line.get("channel") not in (None, "", "1"):
                    continue
                row = {name: value for name, value in line.items() if name and isinstance(value, str) and value.strip()}
                found: dict[str, Any] = {"id": row.pop("file_id")} if "file_id" in row else {}
                for name, value in row.items():
                    try:
                        found[name] = value if name in _TEXTS else json.loads(value)
                    except ValueError:
                        found[name] = value
                yield found
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


class NumbersOnDisk:
    """Whole numbers of 64 bits, appended and read by their place; memory holds none of many millions."""

    _AT_ONCE = 1 << 16

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the object
        self._last = array("q")
        self._written = 0

    def append(self, number: int) -> None:
        """Add one."""
        self._last.append(number)
        if len(self._last) == self._AT_ONCE:
            data = self._last.tobytes()
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())
            self._written += self._AT_ONCE
            self._last = array("q")

    def __len__(self) -> int:
        return self._written + len(self._last)

    def __getitem__(self, place: int) -> int:
        """The number at a place from 0 on."""
        if place >= self._written:
            return self._last[place - self._written]
        return int.from_bytes(os.pread(self._file.fileno(), 8, 8 * place), sys.byteorder, signed=True)

    def repeated(self) -> set[int]:
        """Those that are there twice or more, found among as many at a time as are kept in memory."""
        import numpy as np

        found: set[int] = set()
        for values in map(np.sort, self._parts(len(self))):
            found.update(values[1:][values[1:] == values[:-1]].tolist())
        return found

    def common(self, other: NumbersOnDisk) -> set[int]:
        """Those that are in both, found as :meth:`repeated` finds its own."""
        import numpy as np

        most = max(len(self), len(other))
        found: set[int] = set()
        for ours, theirs in zip(self._parts(most), other._parts(most), strict=True):
            found.update(np.intersect1d(ours, theirs).tolist())
        return found

    def _parts(self, count: int) -> Iterator[NDArray[np.int64]]:
        """All numbers, in as many parts as ``count`` of them need; equal ones are in the same part."""
        import numpy as np

        parts = 1 + count // (4 * self._AT_ONCE)
        for part in range(parts):
            yield np.concatenate([block[block % parts == part] for block in self._blocks()])

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        import numpy as np

        for first in range(0, self._written, self._AT_ONCE):
            yield np.frombuffer(os.pread(self._file.fileno(), 8 * self._AT_ONCE, 8 * first), np.int64)
        yield np.array(self._last, np.int64)

    def __del__(self) -> None:
        self._file.close()


class JsonlRows(Sequence[dict[str, Any]]):
    """The rows of a file of JSON lines, read again whenever they are asked for.

    Memory holds none of them: the byte where each begins is in a temporary file. A slice is such a sequence, too.
    Threads may read rows at the same time.

    Args:
        path: the file, which must stay as it is: rows are refused by an :class:`InputError` once it has changed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._offsets = NumbersOnDisk()
        for offset in self._scan():
            self._offsets.append(offset)
        self._range = range(len(self._offsets))
        self._file = open(path, "rb")  # noqa: SIM115 - closed with the object
        self._version, self._lock = _version(self._file), Lock()

    def _scan(self) -> Iterator[int]:
        """First byte of each row."""
        for line in iter_jsonl(self._path):
            yield line.offset

    def _finish(self, row: dict[str, Any], place: int) -> dict[str, Any]:
        """The row as it is given out; ``place`` is its number in the file, from 0 on."""
        return row

    def _row(self, file: IO[bytes], place: int) -> dict[str, Any]:
        if _version(file) != self._version:
            raise InputError(f"{self._path} has changed since it was first read: start the command again")
        return self._finish(row_at(file, self._offsets[place]), place)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> JsonlRows: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | JsonlRows:
        if isinstance(place, slice):
            part = copy.copy(self)
            part._range = self._range[place]
            part._file = open(self._path, "rb")  # noqa: SIM115 - closed with the object
            return part
        with self._lock:
            return self._row(self._file, self._range[place])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with open(self._path, "rb") as file:
            for place in self._range:
                yield self._row(file, place)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class Chosen(Sequence[Item]):
    """Some items of a sequence, each taken from it when it is asked for.

    Args:
        items: the sequence.
        places: of the chosen ones in it, in the order wanted; memory holds none of them if they are on disk.
    """

    def __init__(self, items: Sequence[Item], places: Sequence[int] | NumbersOnDisk) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Chosen[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Chosen[Item]:
        if isinstance(place, slice):
            return Chosen(self, range(len(self))[place])
        return self._items[self._places[range(len(self))[place]]]


def _version(file: IO[bytes]) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def row_at(file: IO[bytes], offset: int) -> dict[str, Any]:
    """The row that begins at a byte of a file that :func:`iter_jsonl` has read."""
    file.seek(offset)
    return _parse(file.readline().decode("utf-8-sig"), file.name)


def decode_line(line: bytes, number: int, path: str | os.PathLike[str]) -> str:
    """The text of a line of a file, without the byte order mark that Windows editors put first.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number}: not UTF-8 text; expected one JSON object a line") from None


def _parse(text: str, path: str | os.PathLike[str], number: int = 0) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {number}" if number else path
        raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        where = f"{path}, line {number}" if number else path
        raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, atomically; text stays readable (no ASCII escapes). Returns the number of rows."""
    count = 0
    with atomic_write(path) as file:
        for row in rows:
            file.write(format_row(row))
            count += 1
    return count


def format_row(row: dict[str, Any]) -> str:
    """The line of a row, with its end."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def errors_path(output: str | os.PathLike[str]) -> Path:
    """The file beside ``output`` that says which items were skipped, and why."""
    output = Path(output)
    return output.with_name(output.name + ".errors")


def temporary_tables(*tables: str) -> sqlite3.Connection:
    """A database in a temporary file of its own, for tables that may be larger than memory.

    Args:
        tables: name and columns of each, in SQL.
    """
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-4000", "temp_store=FILE"):
        database.execute(f"PRAGMA {setting}")
    for table in tables:
        database.execute(f"CREATE TABLE {table}")
    database.execute("BEGIN")  # one transaction, never ended: the file goes with the connection
    return database
