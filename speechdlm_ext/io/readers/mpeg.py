"""How long an MPEG audio file is: its frames are counted, and an info frame (Xing) says so to the decoder."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

from speechdlm_ext.io.readers.view import FileView

# kbit/s by index, of layers I, II and III of MPEG 1, and of layers I and II or III of MPEG 2 and 2.5
_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # fmt: skip
_SAME = 0xFFFE0C00  # bits of a frame's header that all frames of a file share: sync, version, layer, sample rate
_INFO_BYTES = 64  # that an info frame needs: side information, and the number of frames


@dataclass(frozen=True)
class MpegFrames:
    """The frames of a file.

    Attributes:
        start, stop: bytes of the first frame's begin and of the last whole one's end.
        count: frames of sound.
        info: bytes of the info frame before them; 0 without one.
        stated: frames by the info frame; None where it does not say, or there is none.
        samples: of each channel in a frame.
        header: four bytes of the first frame.
    """

    start: int
    stop: int
    count: int
    info: int
    stated: int | None
    samples: int
    header: int

    def view(self, path: str | os.PathLike[str]) -> FileView:
        """The frames alone, after an info frame with their number, for the decoder to know the length by."""
        return FileView(path, [_info_frame(self.header, self.count), (self.start + self.info, self.stop)])


def parse_frame(header: int) -> tuple[int, int, int] | None:
    """Bytes, samples of each channel and layer of a frame, by its header; None where it is none."""
    version, layer = {3: 1, 2: 2, 0: 2.5}.get(header >> 19 & 3), 4 - (header >> 17 & 3)
    index, rate = header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version is None or layer == 4 or index in (0, 15) or rate == 3:
        return None
    hz = (44100, 48000, 32000)[rate] // {1: 1, 2: 2, 2.5: 4}[version]
    bits, padding = 1000 * _RATES[1 if version == 1 else 2, layer][index], header >> 9 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 1 else 1152
    if layer == 1:
        return 4 * (12 * bits // hz + padding), samples, layer
    return samples // 8 * bits // hz + padding, samples, layer


def find_frames(path: str | os.PathLike[str]) -> MpegFrames | None:
    """Count the frames of a file of layer III by their headers; None where it is none.

    What is between frames and is none (tags, damage) is passed over, as decoders do.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = 0
        while content[place : place + 3] == b"ID3":  # its size has 7 bits a byte
            a, b, c, d = content[place + 6 : place + 10]
            place += 10 + (a << 21 | b << 14 | c << 7 | d)
        size, first, common, stop, count, info, stated, samples = len(content), None, 0, 0, 0, 0, None, 0
        unpack = struct.Struct(">I").unpack_from
        known: dict[int, tuple[int, int, int] | None] = {}
        start = 0
        while place + 4 <= size:
            (header,) = unpack(content, place)
            if header not in known:
                known[header] = parse_frame(header)
            frame = known[header]
            if frame is None or (first is not None and header & _SAME != common):
                place = _next_frame(content, place + 1, common if first is not None else None)
                continue
            if place + frame[0] > size:
                break
            if first is None:
                if frame[2] != 3:
                    return None
                first, common, start, samples = header, header & _SAME, place, frame[1]
                tag = content[place : place + frame[0]]
                where = max(tag.find(b"Xing", 0, 64), tag.find(b"Info", 0, 64))
                if where > 0:
                    info = frame[0]
                    if tag[where + 7] & 1:
                        (stated,) = struct.unpack(">I", tag[where + 8 : where + 12])
                    count -= 1
            count += 1
            place = stop = place + frame[0]
    return None if first is None else MpegFrames(start, stop, count, info, stated, samples, first)


def _next_frame(content: mmap.mmap, place: int, common: int | None) -> int:
    """Where a frame begins that is followed by another, or by the end."""
    size = len(content)
    while (place := content.find(b"\xff", place)) >= 0 and place + 4 <= size:
        header = int.from_bytes(content[place : place + 4], "big")
        frame = parse_frame(header)
        if frame and (common is None or header & _SAME == common):
            after = int.from_bytes(content[place + frame[0] : place + frame[0] + 4], "big")
            if place + frame[0] == size or after & _SAME == header & _SAME:
                return place
        place += 1
    return size


def _info_frame(header: int, count: int) -> bytes:
    """A frame without sound that states the number of frames, of the version, rate and channels of another's header."""
    header = (header | 1 << 16) & ~(1 << 9)  # without CRC and padding
    for index in range(1, 15):
        header = header & ~(15 << 12) | index << 12
        frame = parse_frame(header)
        if frame and frame[0] >= _INFO_BYTES:
            break
    assert frame is not None
    mono, first = header >> 6 & 3 == 3, header >> 19 & 3 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    content = struct.pack(">I", header) + bytes(side) + b"Xing" + struct.pack(">II", 1, count)
    return content.ljust(frame[0], b"\0")
