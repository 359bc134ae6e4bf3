"""The unit transformer's next step for one unit of very few rows by compiled loops."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# With more rows packed products, which keep several of them at once in registers, draw level.
MOST_ROWS = 4
# Below so many weights, a step is so short that compiling would never pay.
LEAST_WEIGHTS = 2**20

_first_process: int | None = None


class CompiledRotary:
    """The layers and heads of a decoder, whose weights are read where they are: changes of them are seen.

    All adding up and everything between the products is in fp32, in a model in bf16 as well.

    Args:
        decoder: a :class:`~speechdlm_ext.models.unit_lm.UnitLMDecoder` in evaluation mode, see :func:`can_compile`.
    """

    def __init__(self, decoder: Any) -> None:
        from speechdlm_ext.modules import compiled_step

        self.kernels = compiled_step
        self.layers = [_weights_of(layer) for layer in decoder.layers]
        self.eps = float(decoder.args.norm_eps)
        self.norm = _as_float(decoder.norm.weight)
        heads = [decoder.output, *([] if decoder.output_duration is None else [decoder.output_duration])]
        self.heads = [as_array(head.weight) for head in heads]
        self.biases = [None if head.bias is None else _as_float(head.bias) for head in heads]
        exponents = np.arange(0, decoder.head_dim, 2, dtype=np.float64) / decoder.head_dim
        self.frequencies = decoder.args.rope_theta**-exponents

    def __call__(self, x: Tensor, caches: Sequence[np.ndarray], position: int, slot: int, seen: int) -> Tensor:
        """Read on by one unit.

        Args:
            x: embeddings, ``(rows, D)``; may be written to.
            caches: of each layer, ``(2, rows, KV heads, capacity, d)``, see :func:`as_array`.
            position: of the unit, which turns queries and keys.
            slot: of the caches, where its keys and values are written.
            seen: slots that are attended to.

        Returns:
            What the heads say, side by side, in fp32, ``(rows, N)``.
        """
        states = x.detach().float().numpy()
        angles = position * self.frequencies
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        with _torch_threads():
            for weights, both in zip(self.layers, caches, strict=True):
                self.kernels.step(states, *weights, both, slot, seen, cos, sin, self.eps)
            normed = np.empty_like(states)
            self.kernels.normalize(states, self.norm, self.eps, normed)
            out = np.empty((len(states), sum(map(len, self.heads))), np.float32)
            first = 0
            for weight, bias in zip(self.heads, self.biases, strict=True):
                self.kernels.multiply(weight, normed, out, first, False)
                if bias is not None:
                    out[:, first : first + len(weight)] += bias
                first += len(weight)
        return torch.from_numpy(out)


def can_compile(decoder: Any, rows: int) -> bool:
    """Whether compiled steps are the fastest: very few rows on a CPU, in fp32 or bf16, of a model of some size."""
    weights = list(decoder.parameters())
    kinds = {(weight.device.type, weight.dtype) for weight in weights}
    known = kinds in ({("cpu", torch.float32)}, {("cpu", torch.bfloat16)})
    return known and rows <= MOST_ROWS and sum(weight.numel() for weight in weights) >= LEAST_WEIGHTS and _works()


def _works() -> bool:
    """Whether there is numba, whose threads do not outlive a fork: numba ends a child that wants to use them."""
    global _first_process
    if not _numba():
        return False
    if _first_process is None:
        _first_process = os.getpid()
    return _first_process == os.getpid()


@cache
def _numba() -> bool:
    try:
        from speechdlm_ext.modules import compiled_step  # noqa: F401
    except ImportError as error:  # numba says this, too, of a numpy that is too new for it
        warnings.warn(f"numba cannot be used ({error}): units are sampled without it, slowly", stacklevel=4)
        return False
    return True


@contextmanager
def _torch_threads() -> Iterator[None]:
    """As many threads as torch would use; torch keeps its number, which numba changes when it starts its threads."""
    import numba

    threads = torch.get_num_threads()
    before, most = numba.get_num_threads(), getattr(numba.config, "NUMBA_NUM_THREADS", 1)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, most))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor's own memory, in bf16 its bits."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: np.ndarray = tensor.view(torch.int16).numpy().view(np.uint16)
        return bits
    return tensor.numpy()


def _as_float(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().contiguous().numpy()
    return array


def _weights_of(layer: Any) -> tuple[np.ndarray, ...]:
    """As the compiled step wants them."""
    attention, forward = layer.attention, layer.feed_forward
    around = (attention.wq, attention.wk, attention.wv, attention.wo)
    between = (forward.w1, forward.w3, forward.w2)
    return (
        _as_float(layer.attention_norm.weight),
        *(as_array(linear.weight) for linear in around),
        _as_float(layer.ffn_norm.weight),
        *(as_array(linear.weight) for linear in between),
    )
