"""Causal attention within packed sequences for training on a CPU, which keeps its probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# What is kept grows with the square of the length; longer sequences are left to torch's attention.
LONGEST = 512
# Queries that see the same keys, behind them or not: the longer, the fewer products and the more of them in vain.
BLOCK = 160


def packed_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Attention whose queries see keys of their own sequence at their own position and before.

    Torch's attention on a CPU makes the probabilities once more in the backward pass, and is slow at it. Here those of
    the keys that are not behind a block of queries are kept, and the whole pack is one step for autograd.

    Args:
        q, k, v: ``(N, heads, d)`` in fp32 or fp64, one sequence after another, all with as many heads.
        lengths: of the sequences, their sum N.

    Returns:
        ``(N, heads, d)``.
    """
    out: Tensor = _PackedAttention.apply(q, k, v, lengths)
    return out


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
        q = q * q.size(-1) ** -0.5
        out = torch.empty_like(v)
        hidden = torch.full((BLOCK, BLOCK), -torch.inf, dtype=q.dtype).triu_(1)
        by_head = [x.transpose(0, 1) for x in (q, k, v, out)]
        ctx.blocks, probabilities = list(_blocks(lengths)), []
        for start, first, last in ctx.blocks:
            queries, keys, values, heard = (x[:, start:last] for x in by_head)
            new, size = slice(first - start, None), last - first
            scores = torch.bmm(queries[:, new], keys.transpose(1, 2))
            scores[:, :, new] += hidden[:size, :size]
            probabilities.append(scores.softmax(-1))
            torch.bmm(probabilities[-1], values, out=heard[:, new])
        ctx.save_for_backward(q, k, v, *probabilities)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *probabilities = ctx.saved_tensors
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        by_head = [x.transpose(0, 1) for x in (gradient, q, k, v, of_q, of_k, of_v)]
        for (start, first, last), shares in zip(ctx.blocks, probabilities, strict=True):
            heard, queries, keys, values, of_queries, of_keys, of_values = (x[:, start:last] for x in by_head)
            new = slice(first - start, None)
            of_shares = torch.bmm(heard[:, new], values.transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype)
            torch.bmm(of_scores, keys, out=of_queries[:, new])
            of_keys.baddbmm_(of_scores.transpose(1, 2), queries[:, new])
            of_values.baddbmm_(shares.transpose(1, 2), heard[:, new])
        return of_q.mul_(q.size(-1) ** -0.5), of_k, of_v, None


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Where the sequence of each block of queries begins, where the block does, and where it ends."""
    start = 0
    for length in lengths:
        size = -(-length // -(-length // BLOCK))  # blocks of about the same size
        for first in range(start, start + length, size):
            yield start, first, min(first + size, start + length)
        start += length
