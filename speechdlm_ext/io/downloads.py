"""Published files: fetched once into a cache folder, and checked against their digest."""

from __future__ import annotations

import math
import os
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.locking import exclusive

CACHE_VARIABLE = "SPEECHDLM_CACHE"
OFFLINE_VARIABLE = "SPEECHDLM_OFFLINE"


def cache_folder() -> Path:
    """Where fetched files are kept: ``$SPEECHDLM_CACHE``, or ``speechdlm_ext`` in ``$XDG_CACHE_HOME`` or ~/.cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speechdlm_ext"


def fetch(url: str, digest: str, folder: str | os.PathLike[str]) -> Path:
    """The file at ``url``, in ``folder`` under its own name; fetched unless it is there.

    It gets its name when it is whole and its digest is right. Of several processes that want the same file one fetches
    it and the others wait.

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
        raise InputError(f"{path} is missing, and {OFFLINE_VARIABLE} forbids fetching it: get {url} by other means")
    from torch.hub import download_url_to_file

    with exclusive(path, wait=math.inf):
        if path.is_file():  # another process was faster
            return path
        try:
            download_url_to_file(url, str(path), digest.lower() or None)
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
            reason = f"HTTP status {error.code}" if isinstance(error, HTTPError) else one_line(cause)
            raise InputError(
                f"{url} cannot be fetched ({reason}): try again, or get it by other means as {path}"
            ) from None
        except RuntimeError as error:  # of the digest
            raise InputError(
                f"{url}: {one_line(error)}: it was changed or cut off, or something between here and there answers in "
                "its place"
            ) from None
    return path
