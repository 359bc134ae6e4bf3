"""One layer of the dialogue model: attention within the channel, across the channels, feed-forward."""

from __future__ import annotations

import torch.nn.functional as F
from fairseq import utils
from fairseq.modules import LayerNorm
from fairseq.modules.quant_noise import quant_noise
from torch import Tensor, nn

from speechdlm_ext.modules.attention import CausalAttention
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.linear import Linear


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
        self.fc1 = quant_noise(Linear(dim, ffn_dim), q_noise, qn_block_size)
        self.fc2 = quant_noise(Linear(ffn_dim, dim), q_noise, qn_block_size)
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.xavier_uniform_(self.fc2.weight)
        self.final_layer_norm = LayerNorm(dim)

    def forward(self, x: Tensor, cache: DecoderCache | None = None, layer: int = 0) -> Tensor:
        """``(B, C, T, D)`` to the same; the cache as in :meth:`CausalAttention.forward`."""
        normed = self.self_attn_layer_norm(x)
        x = self._add(x, self.self_attn(normed, normed, cache, layer))
        if self.cross_channel_attn is not None:
            query = self.cross_channel_attn_layer_norm(x)
            x = self._add(x, self.cross_channel_attn(query, x, cache, layer))
        hidden = self.activation(self.fc1(self.final_layer_norm(x)))
        hidden = F.dropout(hidden, self.activation_dropout, self.training)
        return self._add(x, self.fc2(hidden))

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + F.dropout(branch, self.dropout, self.training)
