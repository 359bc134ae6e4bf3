"""A pre-norm transformer layer with RMSNorm, rotary positions and SwiGLU: one forward for training and decoding."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechdlm_ext.modules.attention import causal_attention
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.linear import Linear

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None  # type: ignore[assignment]

# Cosines and sines of the angles of T positions, (T, 1, d / 2) each.
Rotary = tuple[Tensor, Tensor]
SHORTEST_TABLE = 1024


class Packing(NamedTuple):
    """Sequences one after another in one row, where torch has attention over them (:func:`can_pack`).

    Attributes:
        starts: where the B sequences begin, and where the last one ends, ``(B + 1,)`` int32.
        longest: at least as long as each of them.
    """

    starts: Tensor
    longest: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention within each sequence; ``(N, heads, d)``, keys and values with as many heads or fewer."""
        of_keys = (self.starts, self.starts, self.longest, self.longest)
        grouped = k.size(1) != q.size(1)
        out: Tensor = varlen_attn(q, k, v, *of_keys, window_size=(-1, 0), enable_gqa=grouped)  # type: ignore[assignment]
        return out


def can_pack(x: Tensor) -> bool:
    """Whether torch has attention over packed sequences (flash attention) for a tensor's device and precision."""
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    return varlen_attn is not None and x.device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


def rotary_angles(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Rotary positions (Su et al. 2021): pair j of a head of d components turns by ``position · theta^(-2j / d)``.

    Angles are computed in fp64, so that far positions are as exact as near ones.

    Args:
        positions: ``(T,)`` integers.
        head_dim: d, even.
        theta: base of the wavelengths.
        dtype: of the model; the result is in fp32, in fp64 for a model in fp64.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angles = (positions.double().unsqueeze(-1) * theta**-exponents).unsqueeze(-2)
    precise = torch.promote_types(dtype, torch.float32)
    return angles.cos().to(precise), angles.sin().to(precise)


def rotary_table(length: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype) -> Rotary:
    """:func:`rotary_angles` of the positions 0 to ``length`` - 1, kept from one call to the next."""
    capacity = max(SHORTEST_TABLE, 1 << (length - 1).bit_length())
    cos, sin = _table(capacity, head_dim, theta, device, torch.promote_types(dtype, torch.float32))
    return cos[:length], sin[:length]


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _table(length: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype) -> Rotary:
    return rotary_angles(torch.arange(length, device=device), head_dim, theta, dtype)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn neighbouring components, as published for DP-SLM: ``(…, T, heads, d)`` to the same."""
    cos, sin = rotary
    even, odd = x.to(cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)


class RotaryAttention(nn.Module):
    """Multi-head causal self-attention without biases; parameters are named as in the published checkpoints.

    Args:
        kv_heads: heads of keys and values; each serves ``heads / kv_heads`` of the queries'.
    """

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.wq = Linear(dim, heads * head_dim, bias=False)
        self.wk = Linear(dim, kv_heads * head_dim, bias=False)
        self.wv = Linear(dim, kv_heads * head_dim, bias=False)
        self.wo = Linear(heads * head_dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        packing: Packing | None = None,
        cache: DecoderCache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`RotaryLayer.forward`."""
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.wq, self.wk, self.wv))
        q, k = rotate(q, rotary), rotate(k, rotary)
        if packing is not None:
            attended = packing.attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view_as(q)
        else:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            if cache is not None:
                k, v = cache.update(layer, "self", k, v)
            if mask is None and cache is not None:
                mask = cache.mask
            attended = causal_attention(q, k, v, mask).transpose(1, 2)
        out: Tensor = self.wo(attended.flatten(-2))
        return out


class SwiGLU(nn.Module):
    """``w2(silu(w1 x) · w3 x)`` (Shazeer 2020), without biases."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = Linear(dim, hidden_dim, bias=False)
        self.w2 = Linear(hidden_dim, dim, bias=False)
        self.w3 = Linear(dim, hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, D)`` to the same."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class RotaryLayer(nn.Module):
    """Attention, then a feed-forward block, each normalised before and dropped out after, in a residual branch."""

    def __init__(
        self, dim: int, hidden_dim: int, heads: int, kv_heads: int, head_dim: int, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = RotaryAttention(dim, heads, kv_heads, head_dim)
        self.feed_forward = SwiGLU(dim, hidden_dim)
        self.attention_norm = nn.RMSNorm(dim, eps)
        self.ffn_norm = nn.RMSNorm(dim, eps)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        packing: Packing | None = None,
        cache: DecoderCache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run the layer over sequences that are padded on the right, packed, or continued from a cache.

        Padding on the right needs no mask: it is behind everything that is attended to.

        Args:
            x: ``(B, T, D)``, or ``(1, N, D)`` where packed.
            rotary: of the positions, see :func:`rotary_angles`.
            packing: where the sequences in one row begin; see :func:`can_pack`.
            cache: keys and values of earlier positions, extended for these.
            layer: which layer of the cache this is.
            mask: what may be attended to, bool, broadcast to ``(B, heads, T, keys)``; ``None``: causal.

        Returns:
            Like ``x``.
        """
        attended = self.attention(self.attention_norm(x), rotary, packing, cache, layer, mask)
        x = x + F.dropout(attended, self.dropout, self.training)
        return x + F.dropout(self.feed_forward(self.ffn_norm(x)), self.dropout, self.training)
