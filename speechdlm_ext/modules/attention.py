"""Multi-head causal attention within a channel, and from one channel to the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fairseq.modules.quant_noise import quant_noise
from torch import Tensor, nn

from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.dropout_attention import dropout_attention


class CausalAttention(nn.Module):
    """Multi-head attention whose queries see keys at their own position and before.

    Inputs are ``(B, C, T, D)``. With ``across=False`` every channel attends to itself. With ``across=True`` channel c
    attends to all channels but c (cross-channel attention of dGSLM, Nguyen et al. 2022, section 4.2): the keys and
    values of each channel are computed once and serve all the others.

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
        self.k_proj: nn.Linear = quant_noise(nn.Linear(dim, dim), q_noise, qn_block_size)
        self.v_proj: nn.Linear = quant_noise(nn.Linear(dim, dim), q_noise, qn_block_size)
        self.q_proj: nn.Linear = quant_noise(nn.Linear(dim, dim), q_noise, qn_block_size)
        self.out_proj: nn.Linear = quant_noise(nn.Linear(dim, dim), q_noise, qn_block_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier initialisation; queries, keys and values share one fan-out, hence the smaller gain."""
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Attend from ``query`` to ``key``.

        Args:
            query: ``(B, C, T, D)``.
            key: ``(B, C, T, D)``, what keys and values are made of.
            mask: ``None`` for the plain causal mask, else what may be attended to, ``(B, C, 1, T, keys)``; ``keys`` is
                T, or T·(C - 1) for ``across``, ordered by time, then channel.
            cache: keys and values of earlier positions; those of this call are added to it.
            layer: which layer of the cache.

        Returns:
            ``(B, C, T, D)``.
        """
        batch, channels, length, dim = query.shape
        q, k, v = (self._split(p(x)) for p, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, key)))
        if self.training and 0 < self.dropout < 1 and cache is None and q.device.type == "cpu":
            out = self._attend_with_dropout(q, k, v, mask, batch, channels)
            return self.out_proj(out.transpose(1, 2).reshape(batch, channels, length, dim))
        sources = 1
        if self.across:
            sources = channels - 1
            k, v = (self._others(x, batch, channels) for x in (k, v))
        start = 0
        if cache is not None:
            start = cache.length
            name = "across" if self.across else "self"
            k, v = cache.block(layer, name, k, sources).extend(start * sources, k, v)
        causal = mask is None and length > 1
        if causal and (start > 0 or sources > 1):
            mask = causal_mask(length, start + length, sources, q.device)
            causal = False
        elif mask is not None:
            mask = mask.flatten(0, 1)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0, is_causal=causal
        )
        if mask is not None and mask.dim() == 4:
            # A query with nothing to attend to (another channel that is all padding) takes nothing from it.
            out = out.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        return self.out_proj(out.transpose(1, 2).reshape(batch, channels, length, dim))

    def _attend_with_dropout(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, batch: int, channels: int
    ) -> Tensor:
        """Training on a CPU, where PyTorch's fused attention has no dropout: ``(B·C, heads, T, head dimension)``."""
        rows = list(range(batch * channels))
        sources = 1
        if self.across and channels == 2:
            rows = [row ^ 1 for row in rows]  # the other channel's keys are read where they are
        elif self.across:
            sources = channels - 1
            k, v = (self._others(x, batch, channels) for x in (k, v))
        flat = None if mask is None else mask.flatten(0, 1)
        return dropout_attention(q, k, v, flat, self.dropout, rows, sources)

    def _split(self, x: Tensor) -> Tensor:
        """``(B, C, T, D)`` to ``(B·C, heads, T, head dimension)``."""
        batch, channels, length, _ = x.shape
        return x.view(batch * channels, length, self.heads, self.head_dim).transpose(1, 2)

    @staticmethod
    def _others(x: Tensor, batch: int, channels: int) -> Tensor:
        """For each channel, keys or values of all the others, by time, then channel: ``(B·C, H, T·(C-1), d)``."""
        x = x.view(batch, channels, *x.shape[1:])
        if channels == 2:
            return x.flip(1).flatten(0, 1)
        others = [[c for c in range(channels) if c != own] for own in range(channels)]
        x = x[:, torch.tensor(others, device=x.device)]  # (B, C, C-1, H, T, d)
        return x.permute(0, 1, 3, 4, 2, 5).flatten(3, 4).flatten(0, 1)


def causal_mask(queries: int, positions: int, sources: int, device: torch.device) -> Tensor:
    """True where a query may look: ``(queries, positions·sources)``.

    The queries are the last of the positions; each position holds one key for each source.
    """
    mask = torch.ones(queries, positions, dtype=torch.bool, device=device).tril(positions - queries)
    return mask.repeat_interleave(sources, 1) if sources > 1 else mask
