"""Published files: fetched once into a cache folder, resumed where a connection broke, checked against their digest."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from speechdlm_ext.errors import InputError, one_line

CACHE_VARIABLE = "SPEECHDLM_CACHE"
OFFLINE_VARIABLE = "SPEECHDLM_OFFLINE"
_BLOCK = 1 << 20  # bytes
_TIMEOUT = 60.0  # seconds without a byte


def cache_folder() -> Path:
    """Where fetched files are kept: ``$SPEECHDLM_CACHE``, or ``speechdlm_ext`` in ``$XDG_CACHE_HOME`` or ~/.cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speechdlm_ext"


def fetch(url: str, digest: str, folder: str | os.PathLike[str]) -> Path:
    """The file at ``url``, in ``folder`` under its own name; fetched unless it is there.

    It arrives as ``NAME.part``, which a later call goes on from, and gets its name when it is whole and its digest is
    right. Of several processes that want the same file one fetches it and the others wait.

    Args:
        url: http, https or file.
        digest: SHA-256 of the file in hexadecimal, or its first 8 digits or more; "" leaves the file unchecked.
        folder: made when it is missing.

    Returns:
        The path of the file.

    Raises:
        InputError: the file cannot be fetched, or is another one than the digest says.
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(folder) / PurePosixPath(unquote(urlsplit(url).path)).name
    if path.is_file():
        return path
    if os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        raise InputError(f"{path} is missing, and {OFFLINE_VARIABLE} forbids to fetch it: get {url} by other means")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(path.name + ".part")) as part:
        if path.is_file():  # another process was faster
            Path(part.name).unlink(missing_ok=True)
            return path
        resumed = part.seek(0, os.SEEK_END) > 0
        _transfer(url, part, path)
        found = _digest(part)
        if resumed and not found.startswith(digest.lower()):  # what an earlier call left was of another file
            part.truncate(0)
            _transfer(url, part, path)
            found = _digest(part)
        if not found.startswith(digest.lower()):
            part.truncate(0)
            raise InputError(
                f"{url}: the file has the SHA-256 {found[: max(8, len(digest))]}, wanted is {digest.lower()}: "
                "it was changed, or something between here and there answers in its place"
            )
        os.fsync(part.fileno())
        os.replace(part.name, path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The unfinished file, opened to be read and appended to, by one process at a time."""
    while True:
        file = open(path, "a+b")  # noqa: SIM115 - closed below
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Another process may have finished, and given the file that we have open its name.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return
            if path.with_name(path.name.removesuffix(".part")).is_file():
                yield file
                return
        finally:
            file.close()


def _transfer(url: str, part: IO[bytes], path: Path) -> None:
    """Append what is missing, in as many connections as it takes while each of them brings something."""
    while True:
        start = part.seek(0, os.SEEK_END)
        request = Request(
            url, headers={"User-Agent": "speechdlm_ext", **({"Range": f"bytes={start}-"} if start else {})}
        )
        try:
            with urlopen(request, timeout=_TIMEOUT) as response:
                if start and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
                    part.truncate(0)  # a server that does not resume sends the whole file
                    start = 0
                length = response.headers.get("Content-Length")
                total = start + int(length) if length else None
                _copy(response, part, start, total, path.name)
            if total is None or part.seek(0, os.SEEK_END) >= total:
                return
            error: Exception = ConnectionError("the connection was closed early")
        except HTTPError as refused:
            if refused.code == 416 and start:  # nothing is missing
                return
            error = refused
        except (URLError, HTTPException, ConnectionError, TimeoutError) as broken:
            error = broken
        if part.seek(0, os.SEEK_END) <= start:
            cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
            reason = f"HTTP status {error.code}" if isinstance(error, HTTPError) else one_line(cause)
            raise InputError(f"{url} cannot be fetched ({reason}): try again, or get it by other means as {path}")
        time.sleep(0.5)


def _copy(response: IO[bytes], part: IO[bytes], start: int, total: int | None, name: str) -> None:
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        while block := response.read(_BLOCK):
            part.write(block)
            bar.update(len(block))
    part.flush()


def _digest(part: IO[bytes]) -> str:
    part.flush()
    part.seek(0)
    digest = hashlib.sha256()
    while block := part.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
