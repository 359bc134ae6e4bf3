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
        ctx.lengths, ctx.blocks, probabilities = lengths, [_blocks(length) for length in lengths], []
        for blocks, (queries, keys, values, heard) in zip(ctx.blocks, _sequences(lengths, q, k, v, out), strict=True):
            for first, last in blocks:
                size = last - first
                scores = torch.bmm(_span(queries, first, last), _span(keys, 0, last).transpose(1, 2))
                scores[:, :, first:] += hidden[:size, :size]
                probabilities.append(scores.softmax(-1))
                # Torch multiplies head after head where it has to write between them, and all at once where not.
                _span(heard, first, last).copy_(torch.bmm(probabilities[-1], _span(values, 0, last)))
        ctx.save_for_backward(q, k, v, *probabilities)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *probabilities = ctx.saved_tensors
        of_q, of_k, of_v = (torch.empty_like(x) for x in (q, k, v))
        sequences = zip(ctx.blocks, _sequences(ctx.lengths, gradient, q, k, v, of_q, of_k, of_v), strict=True)
        for blocks, parts in reversed(list(sequences)):
            heard, queries, keys, values, of_queries, of_keys, of_values = parts
            for first, last in reversed(blocks):
                shares, new, sent = probabilities.pop(), _span(queries, first, last), _span(heard, first, last)
                of_shares = torch.bmm(sent, _span(values, 0, last).transpose(1, 2))
                of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype)
                _span(of_queries, first, last).copy_(torch.bmm(of_scores, _span(keys, 0, last)))
                for total, weights, weighted in ((of_keys, of_scores, new), (of_values, shares, sent)):
                    summand = torch.bmm(weights.transpose(1, 2), weighted)
                    if last == total.size(1):  # the last block sees all keys, and begins their sums
                        total.copy_(summand)
                    else:
                        total[:, :last] += summand
        return of_q.mul_(q.size(-1) ** -0.5), of_k, of_v, None


def _sequences(lengths: Sequence[int], *packed: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """What of each tensor ``(N, heads, d)`` belongs to each sequence of T positions, ``(heads, T, d)``."""
    return zip(*(x.transpose(0, 1).split(list(lengths), 1) for x in packed), strict=True)


def _span(x: Tensor, first: int, last: int) -> Tensor:
    """``x[:, first:last]``, where there is something to be cut off."""
    return x if last - first == x.size(1) else x[:, first:last]


def _blocks(length: int) -> list[tuple[int, int]]:
    """Where the blocks of queries of a sequence begin and end; they are of about the same size."""
    size = -(-length // -(-length // BLOCK))
    return [(first, min(first + size, length)) for first in range(0, length, size)]
