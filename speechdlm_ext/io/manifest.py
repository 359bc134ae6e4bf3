"""JSON lines, one object a line: read and written line by line, and tables of lines that do not fit into memory."""

from __future__ import annotations

import copy
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write

_ROWS_AT_ONCE = 1000  # whose places are fetched together


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


class JsonlRows(Sequence[dict[str, Any]]):
    """The rows of a file of JSON lines, read again whenever they are asked for: memory holds none of them.

    Where each begins is in a table on disk. A slice is such a sequence, too.

    Args:
        path: the file, which must stay as it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._table = temporary_tables("rows (place INTEGER PRIMARY KEY, offset INTEGER, id TEXT)")
        self._table.executemany("INSERT INTO rows VALUES (?, ?, ?)", self._scan())
        count = self._table.execute("SELECT COUNT(*) FROM rows").fetchone()[0]
        self._range = range(count)
        self._file = open(path, "rb")  # noqa: SIM115 - closed with the object

    def _scan(self) -> Iterator[tuple[int, int, str | None]]:
        """Place, first byte and name of each row."""
        for place, line in enumerate(iter_jsonl(self._path)):
            yield place, line.offset, None

    def _finish(self, row: dict[str, Any], name: str | None) -> dict[str, Any]:
        """The row as it is given out."""
        return row

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
        found = self._table.execute("SELECT offset, id FROM rows WHERE place = ?", (self._range[place],)).fetchone()
        return self._finish(row_at(self._file, found[0]), found[1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chosen = self._range
        with open(self._path, "rb") as file:
            for start in range(0, len(chosen), _ROWS_AT_ONCE):
                part = chosen[start : start + _ROWS_AT_ONCE]
                low, high = min(part[0], part[-1]), max(part[0], part[-1])
                found = self._table.execute(
                    "SELECT offset, id FROM rows WHERE place BETWEEN ? AND ? AND (place - ?) % ? = 0 ORDER BY place",
                    (low, high, low, abs(part.step)),
                ).fetchall()
                for offset, name in found if part.step > 0 else reversed(found):
                    yield self._finish(row_at(file, offset), name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


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
