"""A file as its decoder is to see it: parts of it, with other bytes in between, read without a copy."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


class FileView:
    """A readable, seekable file made of parts.

    Args:
        path: the file that ranges are of.
        parts: bytes, or ``(start, stop)`` of the file.
    """

    def __init__(self, path: str | os.PathLike[str], parts: Sequence[bytes | tuple[int, int]]) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._parts = [part for part in parts if (len(part) if isinstance(part, bytes) else part[1] > part[0])]
        sizes = [len(part) if isinstance(part, bytes) else part[1] - part[0] for part in self._parts]
        self._starts = [0, *accumulate(sizes)]
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """As of a file opened in binary mode."""
        stop = self._starts[-1] if size < 0 else min(self._position + size, self._starts[-1])
        found = []
        while self._position < stop:
            number = bisect_right(self._starts, self._position) - 1
            part, begin = self._parts[number], self._starts[number]
            inside, until = self._position - begin, min(stop, self._starts[number + 1]) - begin
            if isinstance(part, bytes):
                found.append(part[inside:until])
            else:
                self._file.seek(part[0] + inside)
                found.append(self._file.read(until - inside))
            if not found[-1]:  # the file has become shorter meanwhile
                break
            self._position += len(found[-1])
        return b"".join(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file opened in binary mode."""
        self._position = (0, self._position, self._starts[-1])[whence] + offset
        return self._position

    def tell(self) -> int:
        """As of a file opened in binary mode."""
        return self._position

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def patched(path: str | os.PathLike[str], patches: dict[int, bytes]) -> FileView:
    """The file with other bytes at some places.

    Args:
        path: the file.
        patches: bytes by where they go.
    """
    parts: list[bytes | tuple[int, int]] = []
    position = 0
    for place, content in sorted(patches.items()):
        parts += [(position, place), content]
        position = place + len(content)
    return FileView(path, [*parts, (position, os.path.getsize(path))])
