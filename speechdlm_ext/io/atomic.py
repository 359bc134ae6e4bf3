"""Files that are either whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from speechdlm_ext.io.locking import exclusive

_UMASK = os.umask(0)  # read once, when no other thread runs yet: the system has no call that only reads it
os.umask(_UMASK)


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its place when the block ends without an error.

    Args:
        path: the file to write; its folder is made when it is missing.
        mode: ``"w"`` (UTF-8 text) or ``"wb"``.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; ``path`` is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # "No space left on device" alone does not say where
        raise


@contextmanager
def work_folder(folder: str | os.PathLike[str], name: str) -> Iterator[Path]:
    """An empty folder in ``folder`` for files that are not whole yet; one process at a time has it.

    Args:
        folder: made when it is missing.
        name: of the folder in it, which is removed at the end with what is still in it.

    Raises:
        InputError: another process has it.
        OSError: the folder cannot be written to, or the disk is full.
    """
    work = Path(folder) / name
    with exclusive(work):
        try:
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
            work.mkdir()
            yield work
        except OSError as error:
            error.filename = error.filename or str(folder)  # "No space left on device" alone does not say where
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
