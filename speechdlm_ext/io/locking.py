"""One run at a time on the same files: locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from speechdlm_ext.errors import InputError

# What file systems without flock answer: Lustre without -o flock, NFS without a lock daemon, some FUSE mounts.
_UNSUPPORTED = frozenset((errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP))
_RETRY_SECONDS = 0.1
_warned = False


def open_locked(
    path: str | os.PathLike[str], wait: float = 0.0, name: str | os.PathLike[str] | None = None
) -> IO[bytes]:
    """Open a file for reading and appending, made when it is missing, and lock it until it is closed.

    The file that is returned is the one that ``path`` names: whoever held the lock before may have renamed or removed
    the file that was opened first. On a file system without locks a warning is printed once, and the file is not
    locked.

    Args:
        path: the file.
        wait: seconds to wait for another process; ``inf`` waits for as long as it takes.
        name: what is locked, for the message; ``path`` by default.

    Raises:
        InputError: another process holds it.
        OSError: the file cannot be opened.
    """
    end = time.monotonic() + wait
    while True:
        file = open(path, "a+b")  # noqa: SIM115 - the caller closes it
        try:
            if _lock(file, path):
                if _is_at(file, path):
                    return file
            elif time.monotonic() >= end:
                raise InputError(f"{name or path}: another run is at work on it; wait for it or stop it")
            else:
                time.sleep(_RETRY_SECONDS)
        except BaseException:
            file.close()
            raise
        file.close()


@contextmanager
def exclusive(path: str | os.PathLike[str], wait: float = 0.0) -> Iterator[None]:
    """Hold ``.<name>.lock`` beside ``path``, which need not exist, as long as the block runs.

    Raises:
        InputError: another process holds it.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open_locked(lock, wait, name=path):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lock(file: IO[Any], path: str | os.PathLike[str]) -> bool:
    """Whether the file could be locked, or need not be, as its file system has no locks."""
    global _warned
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise OSError(error.errno, error.strerror, str(path)) from None
        if not _warned:
            print(
                f"warning: the file system of {path} has no file locks ({error.strerror}): start no second run that "
                "writes the same files",
                file=sys.stderr,
                flush=True,
            )
        _warned = True
    return True


def _is_at(file: IO[Any], path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
