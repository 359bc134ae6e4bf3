"""How many samples a FLAC file has, by its last whole frame (RFC 9639, section 9)."""

from __future__ import annotations

import os
from dataclasses import dataclass

_BLOCK_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_WINDOW = 1 << 17  # bytes at the end that are searched, at least
UNKNOWN = (1 << 36) - 1  # the largest number that the header can state


@dataclass(frozen=True)
class FlacInfo:
    """What a FLAC file's header says, and what there is.

    Attributes:
        place: byte of the five whose lower 36 bits are the number of samples.
        stated: samples of each channel by the header; 0 for unknown.
        found: by the last frame; None where none could be found.
        field: the five bytes.
    """

    place: int
    stated: int
    found: int | None
    field: bytes

    def patch(self, samples: int) -> dict[int, bytes]:
        """The field with another number."""
        return {self.place: ((int.from_bytes(self.field, "big") >> 36 << 36) | samples).to_bytes(5, "big")}


def read_flac_info(path: str | os.PathLike[str]) -> FlacInfo | None:
    """See :class:`FlacInfo`; None where the file is no FLAC file."""
    with open(path, "rb") as file:
        start = 0
        while (head := file.read(10))[:3] == b"ID3":
            a, b, c, d = head[6:10]
            start += 10 + (a << 21 | b << 14 | c << 7 | d)
            file.seek(start)
        file.seek(start)
        head = file.read(42)
        if head[:4] != b"fLaC" or len(head) < 42:
            return None
        block, largest = int.from_bytes(head[10:12], "big"), int.from_bytes(head[15:18], "big")
        field = head[21:26]
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start + 42, size - max(_WINDOW, 2 * largest)))
        tail = file.read()
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    stated = int.from_bytes(field, "big") & UNKNOWN
    return FlacInfo(start + 21, stated, _last_sample(tail, block), field)


def _last_sample(tail: bytes, block: int) -> int | None:
    """Samples up to the end of the last whole frame; up to the begin of a frame that is cut off."""
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        if place + 6 <= len(tail) and tail[place + 1] in (0xF8, 0xF9) and (frame := _parse(tail, place, block)):
            begin, length = frame
            return begin + length if _crc(tail[place:], 16, 0x8005) == 0 else begin
    return None


def _parse(tail: bytes, place: int, block: int) -> tuple[int, int] | None:
    """First sample and number of samples of a frame; None where there is none."""
    code, rate = tail[place + 2] >> 4, tail[place + 2] & 15
    if code == 0 or rate == 15 or tail[place + 3] >> 4 > 10 or tail[place + 3] & 1:
        return None
    at = place + 4
    lead = tail[at]
    ones = 8 - (lead ^ 0xFF).bit_length()  # of the number, coded as UTF-8 is
    if ones in (1, 8):
        return None
    extra = max(0, ones - 1)
    number = lead & (0x7F >> ones)
    for byte in tail[at + 1 : at + 1 + extra]:
        number = number << 6 | byte & 63
    at += 1 + extra
    length = _BLOCK_SIZES[code]
    if code in (6, 7):
        length = 1 + int.from_bytes(tail[at : at + code - 5], "big")
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(tail) or _crc(tail[place : at + 1], 8, 0x07):
        return None
    return (number if tail[place + 1] & 1 else number * block), length


def _crc(content: bytes, bits: int, polynomial: int) -> int:
    mask, top, value = (1 << bits) - 1, 1 << bits - 1, 0
    for byte in content:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value
