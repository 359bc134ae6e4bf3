"""A transformer layer's step for very few rows, compiled by numba; imported when it is first needed.

With one or two rows a step costs what reading the weights costs. These loops read them where they are, at the memory's
speed, in fp32 or bf16 (as the bits, ``uint16``), and add up in fp32. No function takes a slice of an array, as counting
references to it would cost as much as a row. All are in one file, as what numba keeps on disk is made anew only when
the file of the outermost function changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

# Sums may be made in any order, of which the machine's width decides; what is not a number stays so.
SUMS = {"reassoc", "contract", "nsz"}


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile at the first call, and keep the result on disk for other processes where there is a place to write."""
    try:
        return njit(function, cache=True, fastmath=SUMS, **options)
    except RuntimeError:  # neither beside the file nor in the user's home
        return njit(function, fastmath=SUMS, **options)


def compiled_parallel(function: Callable[..., Any]) -> Any:
    """The same with its ``prange`` on several threads."""
    return compiled(function, parallel=True)


def widen(value: Any) -> Any:
    """A number as float32; bits of a bf16 are its upper half."""
    raise NotImplementedError


def narrow(value: Any, array: np.ndarray) -> Any:
    """A float32 as ``array`` holds numbers, to the nearest bf16 (of two, the even one) where it holds bits."""
    raise NotImplementedError


@overload(widen)
def _widen(value: Any) -> Any:
    def number(value: Any) -> Any:
        return value

    def bits(value: Any) -> Any:
        return np.uint32(np.uint32(value) << 16).view(np.float32)

    return number if isinstance(value, types.Float) else bits


@overload(narrow)
def _narrow(value: Any, array: Any) -> Any:
    def number(value: Any, array: Any) -> Any:
        return value

    def bits(value: Any, array: Any) -> Any:
        whole = np.uint64(np.float32(value).view(np.uint32))
        return np.uint16((whole + np.uint64(0x7FFF) + ((whole >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16))

    return number if isinstance(array.dtype, types.Float) else bits


@compiled
def exponential(value: np.float32) -> np.float32:
    """The exponential function to 2e-7 of its value, in operations of which vector instructions can be made."""
    x = max(np.float32(-87.0), min(np.float32(88.0), value))
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    rest = (x - whole * np.float32(0.693359375)) - whole * np.float32(-2.12194440e-4)
    term = np.float32(1.9875691500e-4)
    term = term * rest + np.float32(1.3981999507e-3)
    term = term * rest + np.float32(8.3334519073e-3)
    term = term * rest + np.float32(4.1665795894e-2)
    term = term * rest + np.float32(1.6666665459e-1)
    term = term * rest + np.float32(5.0000001201e-1)
    term = term * rest * rest + rest + np.float32(1.0)
    return value if value != value else term * np.int32((np.int32(whole) + 127) << 23).view(np.float32)


@compiled
def _product(weight: np.ndarray, number: int, x: np.ndarray, row: int) -> np.float32:
    total = np.float32(0)
    for place in range(weight.shape[1]):
        total += widen(weight[number, place]) * x[row, place]
    return total


@compiled_parallel
def multiply(weight: np.ndarray, x: np.ndarray, out: np.ndarray, first: int, add: bool) -> None:
    """Products with the rows of ``weight`` ``(N, D)``, float32 or bits of bf16.

    Args:
        x: ``(rows, D)`` float32.
        out: ``(rows, first + N or more)`` float32; the products are written from column ``first`` on.
        add: add them to what is there.
    """
    for number in prange(weight.shape[0]):
        for row in range(x.shape[0]):
            found = _product(weight, number, x, row)
            out[row, first + number] = out[row, first + number] + found if add else found


@compiled
def _attend_head(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, seen: int, out: np.ndarray, row: int, head: int
) -> None:
    dim = keys.shape[3]
    group, first = head * dim * keys.shape[1] // out.shape[1], head * dim
    scale, last = np.float32(1 / np.sqrt(dim)), seen - 1
    weights = np.empty(seen + 3, np.float32)  # of four keys at a time; those behind the end count nothing
    for a in range(0, seen, 4):
        b, c, d = min(a + 1, last), min(a + 2, last), min(a + 3, last)
        w0 = w1 = w2 = w3 = np.float32(0)
        for k in range(dim):
            query = queries[row, first + k] * scale
            w0 += widen(keys[row, group, a, k]) * query
            w1 += widen(keys[row, group, b, k]) * query
            w2 += widen(keys[row, group, c, k]) * query
            w3 += widen(keys[row, group, d, k]) * query
        weights[a], weights[a + 1], weights[a + 2], weights[a + 3] = w0, w1, w2, w3
    highest, total = np.float32(-np.inf), np.float32(0)
    for a in range(seen):
        highest = max(highest, weights[a])
    for a in range(seen):
        weights[a] = exponential(weights[a] - highest)
        total += weights[a]
    for a in range(seen, seen + 3):
        weights[a] = np.float32(0)
    for k in range(dim):
        out[row, first + k] = np.float32(0)
    for a in range(0, seen, 4):
        b, c, d = min(a + 1, last), min(a + 2, last), min(a + 3, last)
        w0, w1, w2, w3 = weights[a] / total, weights[a + 1] / total, weights[a + 2] / total, weights[a + 3] / total
        for k in range(dim):
            out[row, first + k] += (
                w0 * widen(values[row, group, a, k])
                + w1 * widen(values[row, group, b, k])
                + w2 * widen(values[row, group, c, k])
                + w3 * widen(values[row, group, d, k])
            )


@compiled_parallel
def attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, seen: int, out: np.ndarray) -> None:
    """Attention of one query a head over the first ``seen`` positions of a cache.

    Args:
        queries: ``(rows, heads · d or more)`` float32.
        keys, values: ``(rows, KV heads, capacity, d)``, float32 or bits of bf16; each serves heads / KV heads heads.
        out: ``(rows, heads · d)`` float32.
    """
    heads = out.shape[1] // keys.shape[3]
    for task in prange(out.shape[0] * heads):
        _attend_head(queries, keys, values, seen, out, task // heads, task % heads)


@compiled
def normalize(x: np.ndarray, weight: np.ndarray, eps: float, out: np.ndarray) -> None:
    """RMSNorm of ``(rows, D)`` into ``out``."""
    for row in range(x.shape[0]):
        total = np.float32(0)
        for k in range(x.shape[1]):
            total += x[row, k] * x[row, k]
        scale = np.float32(1 / np.sqrt(total / x.shape[1] + eps))
        for k in range(x.shape[1]):
            out[row, k] = x[row, k] * scale * weight[k]


@compiled
def _turn(x: np.ndarray, columns: int, cos: np.ndarray, sin: np.ndarray) -> None:
    """Turn pairs in the first ``columns`` of ``(rows, …)``, heads of which have 2 · len(cos)."""
    for row in range(x.shape[0]):
        for pair in range(columns // 2):
            a, b = x[row, 2 * pair], x[row, 2 * pair + 1]
            c, s = cos[pair % cos.size], sin[pair % cos.size]
            x[row, 2 * pair] = a * c - b * s
            x[row, 2 * pair + 1] = a * s + b * c


@compiled
def _keep(joined: np.ndarray, first: int, cache: np.ndarray, slot: int) -> None:
    """Write the columns from ``first`` on into ``(rows, KV heads, capacity, d)`` at ``slot``."""
    groups, dim = cache.shape[1], cache.shape[3]
    for row in range(joined.shape[0]):
        for group in range(groups):
            for k in range(dim):
                cache[row, group, slot, k] = narrow(joined[row, first + group * dim + k], cache)


@compiled
def step(
    x: np.ndarray,
    attention_norm: np.ndarray,
    wq: np.ndarray,
    wk: np.ndarray,
    wv: np.ndarray,
    wo: np.ndarray,
    ffn_norm: np.ndarray,
    w1: np.ndarray,
    w3: np.ndarray,
    w2: np.ndarray,
    cache: np.ndarray,
    slot: int,
    seen: int,
    cos: np.ndarray,
    sin: np.ndarray,
    eps: float,
) -> None:
    """One layer for ``x`` ``(rows, D)`` float32, in place; see :meth:`RotaryLayer.forward`.

    Args:
        wq, wk, wv, wo, w1, w3, w2: weights ``(N, D)``, float32 or bits of bf16; the norms' are float32.
        cache: keys and values ``(2, rows, KV heads, capacity, d)``, like the weights.
        slot: where this unit's are written.
        seen: how many slots are attended to.
        cos, sin: of this position, ``(d / 2,)`` float32.
    """
    rows, dim = x.shape
    queries, keys = wq.shape[0], wk.shape[0]
    normed = np.empty((rows, dim), np.float32)
    joined = np.empty((rows, queries + 2 * keys), np.float32)
    normalize(x, attention_norm, eps, normed)
    multiply(wq, normed, joined, 0, False)
    multiply(wk, normed, joined, queries, False)
    multiply(wv, normed, joined, queries + keys, False)
    _turn(joined, queries + keys, cos, sin)
    _keep(joined, queries, cache[0], slot)
    _keep(joined, queries + keys, cache[1], slot)
    heard = np.empty((rows, queries), np.float32)
    attend(joined, cache[0], cache[1], seen, heard)
    multiply(wo, heard, x, 0, True)
    normalize(x, ffn_norm, eps, normed)
    gate, hidden = np.empty((rows, w1.shape[0]), np.float32), np.empty((rows, w1.shape[0]), np.float32)
    multiply(w1, normed, gate, 0, False)
    multiply(w3, normed, hidden, 0, False)
    for row in range(rows):
        for k in range(w1.shape[0]):
            hidden[row, k] *= gate[row, k] / (np.float32(1) + exponential(-gate[row, k]))
    multiply(w2, hidden, x, 0, True)
