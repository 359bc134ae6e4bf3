"""Sequences of different lengths one after another in one tensor, without padding, and attention within each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechdlm_ext.modules.packed_attention import LONGEST, packed_attention

# On a GPU a few padded positions cost less than one more kernel: what is attended to together may differ so much in
# length. On a CPU nothing is padded.
GPU_SLACK = 0.125


class Packing:
    """How B sequences lie in a tensor of N positions.

    Args:
        lengths: of the sequences, in their order, all 1 or more.
        device: of the tensors.
        slack: neighbours whose lengths differ by no more than this share are attended to together, padded.

    Attributes:
        positions: of each element in its own sequence, ``(N,)``.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device, slack: float | None = None) -> None:
        self.lengths = list(lengths)
        self.total = sum(self.lengths)
        if slack is None:
            slack = 0.0 if device.type == "cpu" else GPU_SLACK
        self.groups = _groups(self.lengths, slack)
        self.positions = torch.cat([torch.arange(n) for n in self.lengths]).to(device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention within each sequence: the mask is block-diagonal, and nothing is computed outside of it.

        Args:
            q, k, v: ``(N, heads, head dimension)``.

        Returns:
            ``(N, heads, head dimension)``.
        """
        if _training_on_cpu(q) and max(self.lengths) <= LONGEST:
            k, v = (_for_each_head(x, q.size(1)) for x in (k, v))
            return packed_attention(q, k, v, self.lengths)
        sizes = [sum(group) for group in self.groups]
        pieces = zip(self.groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        heard = [_attend_together(group, *parts) for group, *parts in pieces]
        return heard[0] if len(heard) == 1 else torch.cat(heard)


def _groups(lengths: list[int], slack: float) -> list[list[int]]:
    """Neighbours that are attended to together."""
    if not slack:
        return [list(group) for _, group in groupby(lengths)]
    groups: list[list[int]] = []
    for length in lengths:
        if groups:
            shortest, longest = min(*groups[-1], length), max(*groups[-1], length)
            if longest - shortest <= slack * longest:
                groups[-1].append(length)
                continue
        groups.append([length])
    return groups


def _attend_together(lengths: list[int], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sequences of like length as one batch; keys behind a query are hidden from it, and padding is behind all."""
    rows, longest = len(lengths), max(lengths)
    if min(lengths) == longest:
        q, k, v = (x.unflatten(0, (rows, longest)) for x in (q, k, v))
    else:
        q, k, v = (pad_sequence(list(x.split(lengths)), batch_first=True) for x in (q, k, v))
    heard = causal_attention(q, k, v)  # (rows, longest, heads, d)
    if min(lengths) == longest:
        return heard.flatten(0, 1)
    return torch.cat([row[:length] for row, length in zip(heard.unbind(), lengths, strict=True)])


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Torch's attention over ``(B, T, heads, d)``; keys and values may have fewer heads, each for several of q's."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (_for_each_head(x, q.size(1)) for x in (k, v))
    causal = mask is None and q.size(2) > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2)


def _for_each_head(x: Tensor, heads: int) -> Tensor:
    """Keys or values, whose heads may be fewer, for each of the queries' heads."""
    return x if x.size(1) == heads else x.repeat_interleave(heads // x.size(1), 1)


def _training_on_cpu(x: Tensor) -> bool:
    wide = x.dtype in (torch.float32, torch.float64)
    return wide and x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad
