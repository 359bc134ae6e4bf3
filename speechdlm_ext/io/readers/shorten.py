"""Where a stream of shorten (Robinson 1994, CUED/F-INFENG/TR.156) that is cut off is still whole."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_VERBATIM, _ZERO, _LPC, _SHIFT, _SIZE, _QUIT = 9, 8, 7, 6, 5, 4  # commands; those below are differences of an order
_QUIT_BITS = (0, 1, 0, 0)


def whole_part(stream: bytes) -> bytes | None:
    """The blocks that are whole for all channels, with an end behind them; None where the stream is not cut off."""
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    end = _last_block(bits) if len(bits) > 40 else -1
    if end < 0:
        return None
    padding = np.zeros(64, np.uint8)  # decoders read whole words
    return np.packbits(np.concatenate((bits[:end], np.array(_QUIT_BITS, np.uint8), padding))).tobytes()


@njit
def _number(bits: NDArray[np.uint8], at: int, low: int) -> tuple[int, int]:
    """A number of Rice's code with ``low`` low bits, and where the next one begins, beyond the end if it is cut off."""
    value = 0
    while at < len(bits) and not bits[at]:
        value += 1
        at += 1
    at += 1
    for place in range(at, min(at + low, len(bits))):
        value = 2 * value + bits[place]
    return value, at + low


@njit
def _any_number(bits: NDArray[np.uint8], at: int) -> tuple[int, int]:
    low, at = _number(bits, at, 2)
    return _number(bits, at, low)


@njit
def _last_block(bits: NDArray[np.uint8]) -> int:
    """The bit behind the last block that all channels have; -1 in a stream that has its end."""
    at = 40  # behind the magic number and the version
    _, at = _any_number(bits, at)
    channels, at = _any_number(bits, at)
    size, at = _any_number(bits, at)
    for _ in range(2):  # the longest prediction, the means
        _, at = _any_number(bits, at)
    skipped, at = _any_number(bits, at)
    for _ in range(min(skipped, len(bits))):
        _, at = _number(bits, at, 1)
    end, channel = at, 0
    while at < len(bits):
        command, at = _number(bits, at, 2)
        if at > len(bits):
            break
        if command == _QUIT or command > _VERBATIM:
            return -1  # it is whole, or damaged
        if command == _SIZE:
            size, at = _any_number(bits, at)
            continue
        if command == _SHIFT:
            _, at = _number(bits, at, 2)
            continue
        if command == _VERBATIM:
            count, at = _number(bits, at, 5)
            for _ in range(min(count, len(bits))):
                _, at = _number(bits, at, 8)
            continue
        if command != _ZERO:
            low, at = _number(bits, at, 3)
            order = 0
            if command == _LPC:
                order, at = _number(bits, at, 2)
            for number in range(order + size):
                if at >= len(bits):
                    break
                _, at = _number(bits, at, 6 if number < order else low + 1)
        if at > len(bits):
            break
        channel += 1
        if channel == channels:
            end, channel = at, 0
    return end
