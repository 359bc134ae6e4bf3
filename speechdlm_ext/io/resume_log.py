"""What a long piece of work has done so far, kept in a file that survives being killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from speechdlm_ext.io.locking import open_locked

_SYNC_EVERY = 1.0  # seconds


class ResumeLog:
    """Results by key, one JSON line each, appended as they come; a context manager.

    The first line is the settings. Where they are other than ``settings``, what the file holds was made in another way
    and is dropped. A last line that was cut off by a kill or a full disk is dropped too. While one process has the
    journal open, a second one is refused.

    Args:
        path: the file; made when missing.
        settings: what the results depend on.

    Attributes:
        entries: results so far, by key.
        dropped: whether results of other settings were dropped.

    Raises:
        InputError: another process has it open.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.entries: dict[str, Any] = {}
        self.dropped = False
        self._settings = settings
        self._synced = 0.0
        self._file = open_locked(self.path)
        try:
            self._load(settings)
        except BaseException:
            self._file.close()
            raise

    def add(self, key: str, value: Any) -> None:
        """Keep a result: no kill can take it back once this returns, nor can a crash of the machine, a second later."""
        self._append({"key": key, "value": value})
        self.entries[key] = value

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

    def _load(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        found, entries, whole = _read(self._file)
        if whole and found == settings:
            self.entries = entries
            self._file.truncate(whole)
        else:
            self.dropped = found is not None
            self._file.truncate(0)
            self._append({"settings": settings})

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_EVERY:  # slow on the disks of a cluster
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:  # the system does not say which disk is full
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def read_resume_log(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Settings and results of a journal, which another process may have open; None and nothing where there is none.

    Read as far as it is whole, as :class:`ResumeLog` does.
    """
    try:
        with open(path, "rb") as file:
            settings, entries, _ = _read(file)
    except (FileNotFoundError, IsADirectoryError):
        return None, {}
    return settings, entries


def _read(file: Iterable[bytes]) -> tuple[Any, dict[str, Any], int]:
    """Settings, results by key, and the bytes up to the first line that is damaged or in the making."""
    settings: Any = None
    entries: dict[str, Any] = {}
    whole = 0
    for line in file:
        entry = _parse(line)
        if entry is None:
            break
        if not whole:
            settings = entry.get("settings")
        elif isinstance(key := entry.get("key"), str):
            entries[key] = entry.get("value")
        else:
            break
        whole += len(line)
    return settings, entries, whole


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
