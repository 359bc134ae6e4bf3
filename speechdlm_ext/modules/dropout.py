"""Dropout on a CPU with cheap random numbers; the backward pass draws large masks again, which are not kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Decisions are made by 16 random bits, so that probabilities are multiples of this.
STEP = 2**-16
# A mask of up to so many elements is kept for the backward pass, a larger one is drawn again.
KEPT = 2**19


class DropoutMasks:
    """A reproducible sequence of dropout masks.

    PyTorch draws each decision of a dropout on a CPU from a Mersenne twister, which takes longer than most of what is
    done with it. Here one draw of a small fast generator (SFC64) makes four decisions.

    Args:
        probability: of dropping an element, rounded to a multiple of 2^-16.
        seed: the same seed gives the same masks for the same sizes in the same order.

    Attributes:
        scale: what kept elements are multiplied with, so that the expectation stays: 1 / (1 - probability).
    """

    def __init__(self, probability: float, seed: int) -> None:
        dropped = min(round(probability / STEP), 2**16 - 1)
        self.scale = 1 / (1 - dropped * STEP)
        self._threshold = dropped - 2**15
        self._generator = np.random.SFC64(seed)

    def draw(self, out: Tensor) -> Tensor:
        """Write the next mask into ``out``: 1 where an element is kept, 0 where it is dropped.

        It is a tensor of floats because multiplying with one is several times faster than filling by a bool mask.
        """
        bits = torch.from_numpy(self._generator.random_raw((out.numel() + 3) // 4)).view(torch.int16)
        return torch.ge(bits[: out.numel()].view(out.shape), self._threshold, out=out)


def new_seed() -> int:
    """A seed from PyTorch's own generator, whose state fairseq saves and restores."""
    return int(torch.randint(2**62, ()))


def add_dropped(x: Tensor, branch: Tensor, probability: float, training: bool) -> Tensor:
    """``x`` plus dropout of ``branch``, both of one shape: the end of a residual branch."""
    if training and 0 < probability < 1 and branch.device.type == "cpu":
        return _AddDropped.apply(x, branch, probability, new_seed())
    return x + F.dropout(branch, probability, training)


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, probability: float, seed: int) -> Tensor:
        masks = DropoutMasks(probability, seed)
        mask = masks.draw(torch.empty(branch.shape, dtype=branch.dtype))
        ctx.probability, ctx.seed, ctx.scale = probability, seed, masks.scale
        ctx.save_for_backward(mask if mask.numel() <= KEPT else None)
        return torch.addcmul(x, mask, branch, value=masks.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        if kept is None:
            room = torch.empty(gradient.shape, dtype=gradient.dtype)
            kept = DropoutMasks(ctx.probability, ctx.seed).draw(room)
        return gradient, (kept * gradient).mul_(ctx.scale), None, None
