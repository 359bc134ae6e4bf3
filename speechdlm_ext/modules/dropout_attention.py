"""Attention with dropout on a CPU, block by block, in memory that grows with the length and not with its square.

PyTorch's fused attention has no dropout on a CPU: with it, the whole matrix of weights is made and kept, several times
over. Here each block of queries has its weights made, used and forgotten, keys after it skipped, and the backward
pass makes them again (as FlashAttention does on a GPU; Dao et al. 2022). Dropout masks come from a small fast generator
(SFC64), four decisions from each draw, as PyTorch's Mersenne twister takes longer than the attention itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Queries in a block: the weights of 8 heads and 1024 keys then take 4 MB.
BLOCK = 128
# Decisions are made by 16 random bits, so that probabilities are multiples of this.
STEP = 2**-16


def dropout_attention(q: Tensor, k: Tensor, v: Tensor, probability: float, sources: int = 1) -> Tensor:
    """Causal softmax attention with dropout of the weights.

    Args:
        q: ``(N, H, T, d)``.
        k, v: ``(N, H, T·sources, d)``, ordered by time, then source.
        probability: of dropping a weight, rounded to a multiple of 2^-16.
        sources: keys for each position.

    Returns:
        ``(N, H, T, d)``, in memory ``(N, T, H, d)``.
    """
    seed = int(torch.randint(2**62, ()))  # of PyTorch's own generator, whose state fairseq saves and restores
    result: Tensor = _DropoutAttention.apply(q, k, v, probability, sources, seed)
    return result


class DropoutMasks:
    """A sequence of dropout masks; the same seed gives the same masks for the same sizes in the same order.

    Attributes:
        scale: what kept elements are multiplied with, so that the expectation stays: 1 / (1 - probability).
    """

    def __init__(self, probability: float, seed: int) -> None:
        dropped = min(round(probability / STEP), 2**16 - 1)
        self.scale = 1 / (1 - dropped * STEP)
        self._threshold = dropped - 2**15
        self._generator = np.random.SFC64(seed)

    def draw(self, out: Tensor) -> Tensor:
        """Write the next mask into ``out``: 1 where an element is kept, 0 where it is dropped."""
        count = out.numel()
        bits = torch.from_numpy(self._generator.random_raw((count + 3) // 4)).view(torch.int16)
        return torch.ge(bits[:count].view(out.shape), self._threshold, out=out)


class _Blocks:
    """The attention weights of each block of queries, and the dropout mask of each; the same at each iteration."""

    def __init__(self, q: Tensor, k: Tensor, probability: float, sources: int, seed: int) -> None:
        self.q, self.k, self.sources = q, k, sources
        self.scale = q.size(-1) ** -0.5
        self.masks = DropoutMasks(probability, seed)
        self.wide = torch.promote_types(q.dtype, torch.float32)
        size = q.size(1) * min(BLOCK, q.size(2)) * k.size(2)
        # Every block works in the same memory.
        self.rooms = [torch.empty(size, dtype=dtype) for dtype in (q.dtype, self.wide, self.wide)]

    def room(self, number: int, *size: int) -> Tensor:
        """One of the buffers as a tensor of that size; 0 has q's dtype, 1 and 2 the dtype of weights."""
        return self.rooms[number][: math.prod(size)].view(size)

    def __iter__(self) -> Iterator[tuple[int, int, int, Tensor, Tensor]]:
        """Yields row, first query, end of queries, weights and kept weights ``(H, queries, keys)``.

        The weights are in fp32, and in q's precision where that is higher.
        """
        length = self.q.size(2)
        for row in range(self.q.size(0)):
            for start in range(0, length, BLOCK):
                end = min(start + BLOCK, length)
                keys = self.k[row, :, : end * self.sources]
                size = len(keys), end - start, keys.size(1)
                scores = self.room(0, *size)
                torch.bmm(self.q[row, :, start:end] * self.scale, keys.transpose(1, 2), out=scores)
                later = torch.ones(end - start, end - start, dtype=torch.bool).triu_(1)
                scores[..., start * self.sources :].masked_fill_(later.repeat_interleave(self.sources, 1), -torch.inf)
                weights = torch.softmax(scores, -1, dtype=self.wide, out=self.room(1, *size))
                yield row, start, end, weights, self.masks.draw(self.room(2, *size))


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *settings: Any) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.settings = settings
        out = q.new_empty(q.size(0), q.size(2), q.size(1), q.size(3)).transpose(1, 2)
        blocks = _Blocks(q, k, *settings)
        for row, start, end, weights, kept in blocks:
            attended = torch.bmm(kept.mul_(weights).to(v.dtype), v[row, :, : weights.size(-1)])
            torch.mul(attended, blocks.masks.scale, out=out[row, :, start:end])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        dq = torch.empty_like(q)
        dk, dv = (x.new_zeros(x.shape) for x in (k, v))
        blocks = _Blocks(q, k, *ctx.settings)
        for row, start, end, weights, kept in blocks:
            keys = weights.size(-1)
            own = gradient[row, :, start:end] * blocks.masks.scale
            back = torch.bmm(own, v[row, :, :keys].transpose(1, 2), out=blocks.room(0, *weights.shape))
            back = back.to(weights.dtype).mul_(kept)
            # The gradient of a softmax.
            scores = weights.mul(back.sub_((back * weights).sum(-1, keepdim=True))).to(q.dtype)
            dropped = kept.mul_(weights).to(v.dtype)
            dv[row, :, :keys] += torch.bmm(dropped.transpose(1, 2), own)
            torch.mul(torch.bmm(scores, k[row, :, :keys]), blocks.scale, out=dq[row, :, start:end])
            dk[row, :, :keys] += torch.bmm(scores.transpose(1, 2), q[row, :, start:end] * blocks.scale)
        return dq, dk, dv, None, None, None
