"""Attention with dropout on a CPU, block by block, in memory that grows with the length and not with its square.

PyTorch's fused attention has no dropout on a CPU: with it, the whole matrix of weights is made and kept, several times
over. Here each block of queries has its weights made, used and forgotten, keys behind it left out, and the backward
pass makes them again (as FlashAttention does on a GPU; Dao et al. 2022).
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from speechdlm_ext.modules.dropout import DropoutMasks, new_seed

# Queries in a block: the weights of 8 heads and 1024 keys then take 4 MB, and small enough pieces are left out.
BLOCK = 128


def dropout_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, probability: float, rows: list[int], sources: int = 1
) -> Tensor:
    """Softmax attention with dropout of the weights.

    Args:
        q: ``(N, H, T, d)``.
        k, v: ``(N, H, T·sources, d)``, ordered by time, then source.
        mask: ``None`` for the causal mask, else what may be attended to, bool ``(N, 1, T, T·sources)``, no more than
            the causal mask allows; a query that may attend to nothing gets 0.
        probability: of dropping a weight.
        rows: which row of the keys and values each row of the queries attends to.
        sources: keys for each position.

    Returns:
        ``(N, H, T, d)``, in memory ``(N, T, H, d)``.
    """
    result: Tensor = _DropoutAttention.apply(q, k, v, mask, probability, rows, sources, new_seed())
    return result


class _Buffers(threading.local):
    """Working memory of each thread, by number and dtype."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[int, torch.dtype], Tensor] = {}


_BUFFERS = _Buffers()


class _Weights:
    """The attention weights of each block of queries, and the dropout mask of each; the same at each iteration."""

    def __init__(
        self, q: Tensor, k: Tensor, mask: Tensor | None, probability: float, rows: list[int], sources: int, seed: int
    ) -> None:
        self.q, self.k, self.mask, self.rows, self.sources = q, k, mask, rows, sources
        self.scale = q.size(-1) ** -0.5
        self.masks = DropoutMasks(probability, seed)
        self.size = q.size(1) * min(BLOCK, q.size(2)) * k.size(2)
        self.wide = torch.promote_types(q.dtype, torch.float32)

    def room(self, number: int, dtype: torch.dtype, *size: int) -> Tensor:
        """One of the buffers in which every block works, as a tensor of that size.

        They stay: blocks of many sizes that came and went among the tensors kept for the backward pass left holes in
        the heap, a tenth of the process's memory.
        """
        name = (number, dtype)
        if name not in _BUFFERS.tensors or _BUFFERS.tensors[name].numel() < self.size:
            _BUFFERS.tensors[name] = torch.empty(self.size, dtype=dtype)
        return _BUFFERS.tensors[name][: math.prod(size)].view(size)

    def __iter__(self) -> Any:
        """Yields row, its row of keys, first query, end of queries, weights and kept weights ``(H, queries, keys)``.

        The weights are in fp32, and in q's precision where that is higher.
        """
        length = self.q.size(2)
        for row, other in enumerate(self.rows):
            for start in range(0, length, BLOCK):
                end = min(start + BLOCK, length)
                keys = self.k[other, :, : end * self.sources]
                size = len(keys), end - start, keys.size(1)
                scores = self.room(0, keys.dtype, *size)
                torch.bmm(self.q[row, :, start:end] * self.scale, keys.transpose(1, 2), out=scores)
                hidden = self._hide(scores, row, start, end)
                weights = torch.softmax(scores, -1, dtype=self.wide, out=self.room(1, self.wide, *size))
                if hidden is not None:
                    weights.masked_fill_(hidden, 0)  # also where a query sees nothing, and the softmax is not a number
                yield row, other, start, end, weights, self.masks.draw(self.room(2, self.wide, *size))

    def _hide(self, scores: Tensor, row: int, start: int, end: int) -> Tensor | None:
        """Set scores of keys that may not be attended to to -inf; returns which, where that is more than causal."""
        if self.mask is not None:
            hidden = ~self.mask[row, :, start:end, : end * self.sources]
            scores.masked_fill_(hidden, -torch.inf)
            return hidden
        later = torch.ones(end - start, end - start, dtype=torch.bool).triu_(1).repeat_interleave(self.sources, 1)
        scores[..., start * self.sources :].masked_fill_(later, -torch.inf)
        return None


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.settings = settings
        out = q.new_empty(q.size(0), q.size(2), q.size(1), q.size(3)).transpose(1, 2)
        blocks = _Weights(q, k, mask, *settings)
        for row, other, start, end, weights, kept in blocks:
            values = v[other, :, : weights.size(-1)]
            heard = torch.bmm(kept.mul_(weights).to(v.dtype), values)
            torch.mul(heard, blocks.masks.scale, out=out[row, :, start:end])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        dq = torch.empty_like(q)
        dk, dv = (x.new_zeros(x.shape) for x in (k, v))
        blocks = _Weights(q, k, mask, *ctx.settings)
        for row, other, start, end, weights, kept in blocks:
            keys = weights.size(-1)
            own = gradient[row, :, start:end] * blocks.masks.scale
            back = blocks.room(0, own.dtype, *weights.shape)
            back = torch.bmm(own, v[other, :, :keys].transpose(1, 2), out=back).to(weights.dtype).mul_(kept)
            scores = torch._softmax_backward_data(back, weights, -1, weights.dtype).to(q.dtype)
            heard = kept.mul_(weights).to(v.dtype)
            dv[other, :, :keys] += torch.bmm(heard.transpose(1, 2), own)
            torch.mul(torch.bmm(scores, k[other, :, :keys]), blocks.scale, out=dq[row, :, start:end])
            dk[other, :, :keys] += torch.bmm(scores.transpose(1, 2), q[row, :, start:end] * blocks.scale)
        return dq, dk, dv, *[None] * 5
