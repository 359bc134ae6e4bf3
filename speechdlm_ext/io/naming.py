"""Names of recordings, made from their files' names, that are like no other and can be the names of files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePath

from speechdlm_ext.io.manifest import temporary_tables

# A file name may have 255 bytes; suffixes and numbers come after the id.
_ID_BYTES = 160
_AT_ONCE = 1000
_SAFE = re.compile(r"[A-Za-z0-9]|[A-Za-z0-9][\w.-]*[A-Za-z0-9]").fullmatch


class NameTable:
    """Names for many files, in a table on disk.

    A name is the file's stem with all but letters, digits, ``.``, ``_`` and ``-`` replaced by ``_``. Where several
    files have the same, the folders below their common one are put before it, and then, if need be, a number after it.
    """

    def __init__(self) -> None:
        self._table = temporary_tables("names (place INTEGER, path TEXT, id TEXT, fold TEXT)")
        self._is_empty = True
        self._rows: list[tuple[int | None, str | None, str | None, str]] = []
        self._root: str | None = None

    def add(self, place: int, path: str | os.PathLike[str]) -> None:
        """A file that is to have a name."""
        path, self._is_empty = os.fsdecode(path), False
        if self._root is None:
            self._root = os.path.dirname(path)
        elif not path.startswith(self._root + os.sep):
            self._root = os.path.commonpath([self._root, os.path.dirname(path)])
        name = name_of(path)
        self._insert((place, storable(path), name, name.casefold()))

    def take(self, name: str) -> None:
        """A name that another recording has."""
        self._insert((None, None, None, name.casefold()))

    def names(self) -> Iterator[tuple[str, int]]:
        """The name of each file, and its place, once they are settled."""
        yield from self._table.execute("SELECT id, place FROM names WHERE id IS NOT NULL ORDER BY place")

    def __getitem__(self, place: int) -> str:
        """The name of one file, once they are settled."""
        return str(self._table.execute("SELECT id FROM names WHERE place = ?", (place,)).fetchone()[0])

    def settle(self) -> None:
        """Tell the names apart."""
        self._flush()
        run = self._table.execute
        if self._is_empty:
            return
        run("CREATE INDEX by_fold ON names (fold)")
        run("CREATE INDEX by_place ON names (place)")
        for place, path in self._doubled("path IS NOT NULL"):
            parts = PurePath(path).relative_to(self._root or "").with_suffix("").parts
            name = safe_id("-".join(parts))
            run("UPDATE names SET id = ?, fold = ? WHERE place = ?", (name, name.casefold(), place))
        for place, _ in self._doubled("1"):
            (name, fold) = run("SELECT id, fold FROM names WHERE place = ?", (place,)).fetchone()
            rival = "SELECT 1 FROM names WHERE fold = ? AND (place < ? OR id IS NULL) LIMIT 1"
            number, made = 1, fold
            while run(rival, (made, place)).fetchone() or number > 1 and self._is_there(made):
                number += 1
                made = f"{name}-{number}".casefold()
            if number > 1:
                run("UPDATE names SET id = ?, fold = ? WHERE place = ?", (f"{name}-{number}", made, place))

    def _is_there(self, fold: str) -> bool:
        return self._table.execute("SELECT 1 FROM names WHERE fold = ? LIMIT 1", (fold,)).fetchone() is not None

    def _doubled(self, which: str) -> Iterator[tuple[int, str]]:
        """Place and path of the files whose name several have (of those that ``which`` counts), in order."""
        table = temporary_tables("found (place INTEGER PRIMARY KEY, path TEXT)")
        found = self._table.execute(
            f"SELECT place, path FROM names WHERE id IS NOT NULL AND fold IN "
            f"(SELECT fold FROM names WHERE {which} GROUP BY fold HAVING COUNT(*) > 1)"
        )
        table.executemany("INSERT INTO found VALUES (?, ?)", found)
        yield from table.execute("SELECT place, path FROM found ORDER BY place")

    def _insert(self, row: tuple[int | None, str | None, str | None, str]) -> None:
        self._rows.append(row)
        if len(self._rows) == _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._table.executemany("INSERT INTO names VALUES (?, ?, ?, ?)", self._rows)
        self._rows = []


def safe_id(text: str) -> str:
    """The text with all but letters, digits, ``.``, ``_`` and ``-`` replaced, short enough for a file name."""
    if text.isascii() and len(text) <= _ID_BYTES and _SAFE(text):
        return text
    text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip("._-")
    return text.encode()[:_ID_BYTES].decode(errors="ignore") or "recording"


def name_of(path: str) -> str:
    """The name of a file that no other one has to be told apart from."""
    return safe_id(stem_of(path))


def stem_of(path: str) -> str:
    """As :attr:`PurePath.stem`, which takes several times as long."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name


def storable(text: str) -> str:
    """The text as a database can keep it, also where it has halves of surrogate pairs, as names that are not UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()
