"""What a long piece of work has done so far, kept in a file that survives being killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import open_locked
from speechdlm_ext.io.manifest import temporary_tables
from speechdlm_ext.io.naming import storable

_SYNC_EVERY = 1.0  # seconds


class LoggedResults(Mapping[str, Any]):
    """The results in a log by key, the last of each, in the order of the keys' first results.

    Memory holds none of them: where each begins in the file is in a table on disk.

    Args:
        file: the log, open to be read; None for no results.

    Attributes:
        settings: the log's; None where there are none.
        size: bytes up to the first line that is damaged or unfinished.
    """

    def __init__(self, file: IO[bytes] | None) -> None:
        self.settings: Any = None
        self.size = 0
        self._file = file
        self._table = temporary_tables("results (number INTEGER PRIMARY KEY, key TEXT UNIQUE, offset INTEGER)")
        for line in file or ():
            entry = _parse(line)
            if entry is None:
                break
            if not self.size:
                self.settings = entry.get("settings")
            elif isinstance(key := entry.get("key"), str):
                self.put(key, self.size)
            else:
                break
            self.size += len(line)

    def put(self, key: str, offset: int) -> None:
        """Note that the result of ``key`` is in the line that begins at ``offset``."""
        self._table.execute(
            "INSERT INTO results (key, offset) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET offset = excluded.offset",
            (storable(key), offset),
        )

    def clear(self) -> None:
        """Forget all results."""
        self._table.execute("DELETE FROM results")

    def __getitem__(self, key: str) -> Any:
        found = self._table.execute("SELECT offset FROM results WHERE key = ?", (storable(key),)).fetchone()
        if found is None or self._file is None:
            raise KeyError(key)
        self._file.seek(found[0])
        return json.loads(self._file.readline())["value"]

    def __iter__(self) -> Iterator[str]:
        for (key,) in self._table.execute("SELECT key FROM results ORDER BY number"):
            yield key

    def __len__(self) -> int:
        return int(self._table.execute("SELECT COUNT(*) FROM results").fetchone()[0])

    def __del__(self) -> None:
        self._table.close()
        if self._file is not None:
            self._file.close()


class ResumeLog:
    """Results by key, one JSON line each, appended as they come; a context manager.

    The first line is the settings. Where they are other than ``settings``, what the file holds was made in another way
    and is dropped. A last line that was cut off by a kill or a full disk is dropped too. While one process has the
    log open, a second one is refused.

    Args:
        path: the file; made when missing.
        settings: what the results depend on.

    Attributes:
        entries: results so far, by key.
        dropped: whether results of other settings were dropped.

    Raises:
        InputError: another process has it open.
        OSError: the folder cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._synced = 0.0
        self._file = open_locked(self.path)
        try:
            self.entries = LoggedResults(open(self.path, "rb"))  # noqa: SIM115 - closed with the results
            found = self.entries.settings
            same = bool(self.entries.size) and found == settings
            if same and os.fstat(self._file.fileno()).st_size > self.entries.size:
                self._file.truncate(self.entries.size)
            self.dropped = not same and found is not None
            if not same:
                self.clear()
        except BaseException:
            self._file.close()
            raise

    def add(self, key: str, value: Any) -> None:
        """Keep a result: no kill can take it back once this returns, nor can a crash of the machine, a second later."""
        self.entries.put(key, self._append({"key": key, "value": value}))

    def clear(self) -> None:
        """Forget all results."""
        self.entries.clear()
        self._file.truncate(0)
        self._append({"settings": self._settings})

    def remove(self) -> None:
        """Delete the file, its purpose being fulfilled."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> ResumeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:  # what could not be written is tried once more, and fails again without a name
            if error is None:
                raise

    def _append(self, entry: dict[str, Any]) -> int:
        """Write a line; returns the byte where it begins."""
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_EVERY:  # slow on the disks of a cluster
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:  # the system does not say which disk is full
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        # Where the line is, not where it should be: without file locks another process may write here, too.
        return os.lseek(self._file.fileno(), 0, os.SEEK_CUR) - len(line)


def remove_finished_log(path: str | os.PathLike[str]) -> None:
    """Delete what a run left that was killed after its output was there, unless another run is at work."""
    if os.path.exists(path):
        with suppress(InputError), open_locked(path):
            Path(path).unlink()


def read_resume_log(path: str | os.PathLike[str]) -> tuple[Any, LoggedResults]:
    """Settings and results of a log, which another process may have open; None and nothing where there is none.

    Read as far as it is whole, as :class:`ResumeLog` does.
    """
    try:
        results = LoggedResults(open(path, "rb"))  # noqa: SIM115 - closed with the results
    except (FileNotFoundError, IsADirectoryError):
        results = LoggedResults(None)
    return results.settings, results


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
