"""Causal attention: one function, and the dialogue model's attention within a channel and across channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fairseq.modules.quant_noise import quant_noise
from torch import Tensor, nn

from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.dropout_attention import dropout_attention
from speechdlm_ext.modules.linear import Linear


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, sources: int = 1
) -> Tensor:
    """Softmax attention of queries to keys at their own position and before.

    Args:
        q: ``(N, H, T, d)``.
        k, v: ``(N, H, S · sources, d)``, ordered by time, then source; fewer heads serve several of the queries' each.
        mask: what may be attended to, bool ``(T, S)``, the same for all sources. Without it T positions attend
            causally to S = T, and a single one to everything.
        dropout: probability of dropping a weight.
        sources: keys for each position.

    Returns:
        ``(N, H, T, d)``.
    """
    length = q.size(2)
    gqa = k.size(1) != q.size(1)
    if mask is not None:
        mask = mask if sources == 1 else mask.repeat_interleave(sources, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, enable_gqa=gqa)
    if dropout and length > 1 and q.device.type == "cpu" and not torch.compiler.is_compiling():
        return dropout_attention(q, k, v, dropout, sources)
    if sources == 1 or length == 1:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=length > 1, enable_gqa=gqa)
    # Each query once for each source makes the mask square and causal, so that none has to be built: the last copy
    # attends to all sources of its position.
    q = q.repeat_interleave(sources, 2)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)[:, :, sources - 1 :: sources]


class CausalAttention(nn.Module):
    """Multi-head causal attention over parallel channels.

    With ``across=False`` every channel attends to itself. With ``across=True`` channel c attends to all channels but c
    (cross-channel attention of dGSLM, Nguyen et al. 2022, section 4.2): the keys and values of each channel are
    computed once and serve all the others.

    Parameters are named as in fairseq's ``MultiheadAttention`` (``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        across: bool = False,
        q_noise: float = 0.0,
        qn_block_size: int = 8,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"embedding dimension {dim} is not a multiple of {heads} attention heads")
        self.heads, self.head_dim = heads, dim // heads
        self.dropout = dropout
        self.across = across
        self.k_proj: nn.Linear = quant_noise(Linear(dim, dim), q_noise, qn_block_size)
        self.v_proj: nn.Linear = quant_noise(Linear(dim, dim), q_noise, qn_block_size)
        self.q_proj: nn.Linear = quant_noise(Linear(dim, dim), q_noise, qn_block_size)
        self.out_proj: nn.Linear = quant_noise(Linear(dim, dim), q_noise, qn_block_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier initialisation; queries, keys and values share one fan-out, hence the smaller gain."""
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, cache: DecoderCache | None = None, layer: int = 0) -> Tensor:
        """Attend from ``query`` to ``key``.

        Args:
            query: ``(B, C, T, D)``.
            key: ``(B, C, T, D)``, what keys and values are made of.
            cache: keys and values of earlier positions, extended for these.
            layer: which layer of the cache.

        Returns:
            ``(B, C, T, D)``.
        """
        batch, channels, length, dim = query.shape
        q, k, v = (self._split(p(x)) for p, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, key)))
        sources = 1
        if self.across:
            sources = channels - 1
            k, v = (_others(x, batch, channels) for x in (k, v))
        mask = None
        if cache is not None:
            k, v = cache.update(layer, "across" if self.across else "self", k, v, sources)
            mask = cache.mask
        attended = causal_attention(q, k, v, mask, self.dropout if self.training else 0.0, sources)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, channels, length, dim))

    def _split(self, x: Tensor) -> Tensor:
        """``(B, C, T, D)`` to ``(B·C, heads, T, head dimension)``."""
        batch, channels, length, _ = x.shape
        return x.view(batch * channels, length, self.heads, self.head_dim).transpose(1, 2)


def _others(x: Tensor, batch: int, channels: int) -> Tensor:
    """For each channel, keys or values of all the others, by time, then channel: ``(B·C, H, T·(C-1), d)``."""
    x = x.unflatten(0, (batch, channels))
    if channels == 2:
        return x.flip(1).flatten(0, 1)
    others = [torch.cat([x[:, :c], x[:, c + 1 :]], 1) for c in range(channels)]
    # (B, C, C-1, H, T, d)
    return torch.stack(others, 1).permute(0, 1, 3, 4, 2, 5).flatten(3, 4).flatten(0, 1)
