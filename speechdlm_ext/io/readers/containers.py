"""Where the samples of wav, aiff, au, caf and w64 files lie, and what their headers say about how many there are."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

_UNKNOWN = 0x7FFFF000  # a 32-bit size from here on was written before the length was known, as to a pipe
_LARGEST = 0xFFFFFFFF
_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")  # the GUID of "riff"
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the GUIDs of its other chunks, after their four letters


@dataclass
class SampleData:
    """The samples of a file.

    Attributes:
        start: byte where they begin.
        stated: bytes of them by the header; None where it says that it does not know.
        size: the file's.
        follows: whether what lies at a byte can be what the format has after the samples.
        sizes: fields of the header that hold sizes: how to make their bytes from the number of bytes of samples.
    """

    start: int
    stated: int | None
    size: int
    follows: Callable[[int], bool] = lambda place: False
    sizes: dict[int, Callable[[int], bytes]] = field(default_factory=dict)

    @property
    def found(self) -> int:
        """Bytes of samples that there are."""
        there = max(0, self.size - self.start)
        if self.stated is None or self.stated > there:
            return there
        end = self.start + self.stated
        if there - self.stated < 16 or self.follows(end) or self.follows(end + 1):
            return self.stated
        return there

    @property
    def is_right(self) -> bool:
        """Whether the header says what there is."""
        return self.stated == self.found

    def patches(self) -> dict[int, bytes]:
        """The header's fields as they should be, by place."""
        return {place: make(self.found) for place, make in self.sizes.items()}


def find_samples(path: str | os.PathLike[str], head: bytes) -> SampleData | None:
    """The samples of a file of one of these formats; None for others, and where its header breaks off."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _find_riff(file, size, head[:4])
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _find_aiff(file, size)
        if head[:4] in (b".snd", b"dns.") and len(head) >= 24:
            order = ">" if head[:4] == b".snd" else "<"
            start, stated = struct.unpack(order + "II", head[4:12])
            return SampleData(start, _known(stated), size, sizes={8: _packed(order + "I")})
        if head[:4] == b"caff":
            return _find_caf(file, size)
        if head[:16] == _W64:
            return _find_w64(file, size)
    return None


def _known(stated: int) -> int | None:
    return None if stated >= _UNKNOWN else stated


def _packed(form: str, extra: int = 0) -> Callable[[int], bytes]:
    """How to write a size: the bytes of samples and ``extra`` ones more."""
    limit = (1 << 8 * struct.calcsize(form)) - 1
    return lambda count: struct.pack(form, min(count + extra, limit))


def _chunks(file: IO[bytes], place: int, size: int, order: str) -> Iterator[tuple[int, bytes, int]]:
    """Place, name and stated size of each chunk of a RIFF or AIFF file."""
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack(order + "4sI", file.read(8))
        yield place, name, length
        place += 8 + length + length % 2


def _follows(path: str, size: int, order: str) -> Callable[[int], bool]:
    def chunks_to_the_end(place: int) -> bool:
        with open(path, "rb") as file:
            end = place
            for end, name, length in _chunks(file, place, size, order):
                if not all(32 <= letter < 127 for letter in name) or end + 8 + length > size:
                    return False
        return end > place or size - place > 8

    return chunks_to_the_end


def _find_riff(file: IO[bytes], size: int, kind: bytes) -> SampleData | None:
    order = ">" if kind == b"RIFX" else "<"
    long = None
    for place, name, length in _chunks(file, 12, size, order):
        if name == b"ds64":
            long = place + 8
        if name == b"data":
            follows, sizes = (
                _follows(file.name, size, order),
                {4: _packed(order + "I", place), place + 4: _packed(order + "I")},
            )
            stated = _known(length)
            if long is not None:
                file.seek(long)
                _, whole = struct.unpack("<QQ", file.read(16))
                stated = whole if length == _LARGEST else stated
                sizes = {long: _packed("<Q", place), long + 8: _packed("<Q")}
            return SampleData(place + 8, stated, size, follows, sizes)
    return None


def _find_aiff(file: IO[bytes], size: int) -> SampleData | None:
    count = None
    for place, name, length in _chunks(file, 12, size, ">"):
        if name == b"COMM":
            file.seek(place + 8)
            channels, frames, bits = struct.unpack(">HIH", file.read(8))
            compressed = length > 18 and file.read(14)[10:] not in (b"NONE", b"sowt", b"twos", b"raw ")
            width = channels * (-(-bits // 8))
            count = None if compressed or not width else (place + 10, width, frames)
        if name == b"SSND":
            sizes = {4: _packed(">I", place + 8), place + 4: _packed(">I", 8)}
            stated: int | None = None if length >= _UNKNOWN else max(0, length - 8)
            if count:
                at, width, frames = count
                sizes[at] = lambda found, width=width: struct.pack(">I", found // width)  # type: ignore[misc]
                stated = min(stated, frames * width) if stated is not None else None
            return SampleData(place + 16, stated, size, _follows(file.name, size, ">"), sizes)
    return None


def _find_caf(file: IO[bytes], size: int) -> SampleData | None:
    place = 8
    while place + 12 <= size:
        file.seek(place)
        name, length = struct.unpack(">4sq", file.read(12))
        if name == b"data":
            stated = None if length < 0 else max(0, length - 4)

            def follows(at: int) -> bool:
                with open(file.name, "rb") as again:
                    again.seek(at)
                    chunk = again.read(12)
                return len(chunk) == 12 and chunk[:4] in (
                    b"free",
                    b"info",
                    b"uuid",
                    b"pakt",
                    b"mark",
                    b"strg",
                    b"peak",
                    b"ovvw",
                    b"umid",
                    b"midi",
                    b"regn",
                )

            return SampleData(place + 16, stated, size, follows, {place + 4: _packed(">q", 4)})
        if length < 0:
            return None
        place += 12 + length
    return None


def _find_w64(file: IO[bytes], size: int) -> SampleData | None:
    place = 40
    while place + 24 <= size:
        file.seek(place)
        name, tail, length = struct.unpack("<4s12sQ", file.read(24))
        if name == b"data":
            stated = None if length >> 62 else max(0, length - 24)

            def follows(at: int) -> bool:
                with open(file.name, "rb") as again:
                    again.seek(-(-at // 8) * 8)
                    return again.read(16)[4:] == _W64_TAIL

            sizes = {16: _packed("<Q", place + 24), place + 16: _packed("<Q", 24)}
            return SampleData(place + 24, stated, size, follows, sizes)
        if length < 24 or tail != _W64_TAIL:
            return None
        place += -(-length // 8) * 8
    return None
