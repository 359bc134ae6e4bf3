"""One run at a time on the same files: locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from speechdlm_ext.errors import InputError


def lock_file(file: IO[Any] | int, path: str | os.PathLike[str], wait: float = 0.0) -> None:
    """Lock an open file until it is closed.

    Args:
        file: to lock, or its descriptor.
        path: what is locked, for the message.
        wait: seconds to wait for another process to let go.

    Raises:
        InputError: another process holds it.
    """
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise InputError(f"{path}: another run is at work on it; wait for it or stop it") from None
            time.sleep(0.1)


@contextmanager
def exclusive(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold ``.<name>.lock`` beside ``path``, which need not be there, as long as the block runs.

    Raises:
        InputError: another process holds it.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(lock, "ab") as file:
            lock_file(file, path)
            if not _is_at(file, lock):
                continue  # whoever held it before has removed it since it was opened
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(file: IO[Any], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
