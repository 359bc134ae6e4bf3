"""Dropout on a CPU with cheap random numbers; the backward pass has them again, large ones drawn anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Decisions are made by 16 random bits, so that probabilities are multiples of this.
STEP = 2**-16
# The random numbers of so many elements are kept for the backward pass, more are drawn again.
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
        return self.decide(self.draw_bits(out.shape), out)

    def draw_bits(self, shape: torch.Size) -> Tensor:
        """The random numbers of the next mask, ``shape``, int16."""
        count = shape.numel()
        bits = torch.from_numpy(self._generator.random_raw((count + 3) // 4)).view(torch.int16)
        return bits[:count].view(shape)

    def decide(self, bits: Tensor, out: Tensor) -> Tensor:
        """The mask of random numbers, written into ``out``."""
        return torch.ge(bits, self._threshold, out=out)


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
        bits = masks.draw_bits(branch.shape)
        mask = masks.decide(bits, torch.empty_like(branch))
        ctx.probability, ctx.seed = probability, seed
        ctx.save_for_backward(bits if bits.numel() <= KEPT else None)
        return torch.addcmul(x, mask, branch, value=masks.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (bits,) = ctx.saved_tensors
        masks = DropoutMasks(ctx.probability, ctx.seed)
        mask = masks.decide(masks.draw_bits(gradient.shape) if bits is None else bits, torch.empty_like(gradient))
        return gradient, mask.mul_(gradient).mul_(masks.scale), None, None
