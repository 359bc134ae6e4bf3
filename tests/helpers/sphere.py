"""NIST SPHERE files, and sound that takes turns: what telephone corpora are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def conversation(seconds: float, rate: int = 8000, seed: int = 1) -> NDArray[np.int16]:
    """Two channels of noise in bursts, in turns, with 600 Hz on one and 1100 Hz on the other (N, 2)."""
    times = np.arange(round(seconds * rate)) / rate
    speaking = np.sin(2 * np.pi * times / 3) > 0
    sound = 0.01 * np.random.default_rng(seed).standard_normal((len(times), 2))
    for channel, (hz, on) in enumerate(((600, speaking), (1100, ~speaking))):
        sound[:, channel] += 0.4 * on * np.sin(2 * np.pi * hz * times) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * times))
    return np.rint(32767 * sound).astype(np.int16)


def to_ulaw(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """G.711 µ-law."""
    values = samples.astype(int)
    sizes = np.minimum(np.abs(values), 32635) + 132
    exponents = np.floor(np.log2(sizes)).astype(int) - 7
    codes = np.where(values < 0, 128, 0) | exponents << 4 | sizes >> exponents + 3 & 15
    return (~codes & 255).astype(np.uint8)


def from_ulaw(codes: NDArray[np.uint8]) -> NDArray[np.int16]:
    """What G.711 says that the codes stand for."""
    bits = ~codes.astype(int) & 255
    sizes = ((bits & 15) << 3 | 132) << (bits >> 4 & 7)
    return np.where(bits & 128, 132 - sizes, sizes - 132).astype(np.int16)


def write_sphere(
    path: Path,
    body: bytes,
    frames: int | None,
    coding: str = "pcm",
    width: int = 2,
    order: str = "01",
    channels: int = 2,
) -> None:
    """A SPHERE file at 8 kHz; without ``frames`` its header does not say how many samples there are."""
    fields = [f"channel_count -i {channels}", "sample_rate -i 8000", f"sample_n_bytes -i {width}"]
    fields += [f"sample_byte_format -s{len(order)} {order}", f"sample_coding -s{len(coding)} {coding}"]
    fields += [f"sample_count -i {frames}"] if frames is not None else []
    head = "NIST_1A\n   1024\n" + "\n".join(fields) + "\nend_head\n"
    path.write_bytes(head.encode().ljust(1024) + body)


def shorten(values: NDArray[np.int64], kind: int, block: int = 256) -> bytes:
    """A shorten stream (version 2) of first differences, Rice-coded (Robinson 1994).

    Args:
        values: (N, C); 16-bit samples with ``kind`` 5, ranks of µ-law codes with ``kind`` 8.
    """
    bits: list[int] = []

    def number(value: int, low: int) -> None:
        bits.extend([0] * (value >> low) + [1] + [value >> place & 1 for place in range(low - 1, -1, -1)])

    def any_number(value: int) -> None:
        number(value.bit_length(), 2)
        number(value, value.bit_length())

    for value in (kind, values.shape[1], block, 0, 0, 0):
        any_number(value)
    last, size = [0] * values.shape[1], block
    for start in range(0, len(values), block):
        part = values[start : start + block]
        if len(part) != size:
            size = len(part)
            number(5, 2)
            any_number(size)
        for channel in range(values.shape[1]):
            steps = np.diff(part[:, channel], prepend=last[channel]).tolist()
            last[channel] = int(part[-1, channel])
            low = max(0, int(np.log2(np.mean(np.abs(steps)) + 1)))
            number(1, 2)
            number(low, 3)
            for step in steps:
                number(2 * step if step >= 0 else -2 * step - 1, low + 1)
    number(4, 2)
    bits.extend([0] * (-len(bits) % 32))
    return b"ajkg\2" + np.packbits(bits).tobytes()


def write_fisher(path: Path, samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """A call as LDC sends Fisher, ``ulaw,embedded-shorten-v2.00``; returns the samples that are in it."""
    codes = to_ulaw(samples)
    ranks = np.where(codes >= 128, 255 - codes.astype(int), codes.astype(int) - 128)
    write_sphere(path, shorten(ranks, 8), len(samples), "ulaw,embedded-shorten-v2.00", 1, "1")
    return from_ulaw(codes)
