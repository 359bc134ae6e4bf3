"""One layer of the dialogue model: attention within the channel, across the channels, feed-forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.modules import LayerNorm
from fairseq.modules.quant_noise import quant_noise
from torch import Tensor, nn

from speechdlm_ext.modules.attention import CausalAttention
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.dropout import add_dropped
from speechdlm_ext.modules.recomputation import made_again


class DialogueLayer(nn.Module):
    """Pre-norm transformer layer over all channels at once (Nguyen et al. 2022, figure 3).

    Self-attention, then cross-channel attention if ``cross``, then feed-forward, each in a residual branch. The
    cross-channel attention normalises its queries only: keys and values are the channels' states as the
    self-attention branch left them.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        cross: bool,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation_fn: str = "relu",
        q_noise: float = 0.0,
        qn_block_size: int = 8,
    ) -> None:
        super().__init__()
        self.dropout, self.activation_dropout = dropout, activation_dropout
        self.activation = utils.get_activation_fn(activation_fn)
        self.self_attn = CausalAttention(dim, heads, attention_dropout, False, q_noise, qn_block_size)
        self.self_attn_layer_norm = LayerNorm(dim)
        self.cross_channel_attn: CausalAttention | None = None
        if cross:
            self.cross_channel_attn = CausalAttention(dim, heads, attention_dropout, True, q_noise, qn_block_size)
            self.cross_channel_attn_layer_norm = LayerNorm(dim)
        self.fc1 = quant_noise(nn.Linear(dim, ffn_dim), q_noise, qn_block_size)
        self.fc2 = quant_noise(nn.Linear(ffn_dim, dim), q_noise, qn_block_size)
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.xavier_uniform_(self.fc2.weight)
        self.final_layer_norm = LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        self_mask: Tensor | None = None,
        cross_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """``(B, C, T, D)`` to the same; masks and cache as in :meth:`CausalAttention.forward`."""
        with self._normed(self.self_attn_layer_norm, x) as normed:
            attended = self.self_attn(normed, normed, self_mask, cache, layer)
        x = self._add(x, attended)
        if self.cross_channel_attn is not None:
            with self._normed(self.cross_channel_attn_layer_norm, x) as normed:
                attended = self.cross_channel_attn(normed, x, cross_mask, cache, layer)
            x = self._add(x, attended)
        with self._normed(self.final_layer_norm, x) as normed:
            hidden = self.fc1(normed)
        hidden = F.dropout(self.activation(hidden), self.activation_dropout, self.training)
        return self._add(x, self.fc2(hidden))

    @contextmanager
    def _normed(self, norm: nn.Module, x: Tensor) -> Iterator[Tensor]:
        """The layer norm of ``x``, which training on a CPU makes again in the backward pass instead of keeping it."""
        normed = norm(x)
        if not (self.training and torch.is_grad_enabled() and x.device.type == "cpu"):
            yield normed
            return
        inner = x.detach()
        with made_again(normed, lambda: norm(inner)):
            yield normed

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        return add_dropped(x, branch, self.dropout, self.training)
