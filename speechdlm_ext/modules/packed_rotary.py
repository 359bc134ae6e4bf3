"""The layers of the unit transformer arranged for scoring many positions at a time on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.modules.packed_linear import PackedLinear
from speechdlm_ext.modules.rotary import Rotation
from speechdlm_ext.modules.rotary_layer import Attend, RotaryLayer


class PackedRotaryLayer:
    """One :class:`RotaryLayer` without dropout whose weights are packed, and which writes over its own results.

    Args:
        layer: its weights are copied; later changes of them are not seen.
        rows: about how many positions there will be.
    """

    def __init__(self, layer: RotaryLayer, rows: int) -> None:
        self.layer = layer
        attention, forward = layer.attention, layer.feed_forward
        self.head_dim = attention.head_dim
        self.turned = attention.wq.out_features + attention.wk.out_features
        self.queries = attention.wq.out_features // self.head_dim
        self.joined = PackedLinear([attention.wq, attention.wk, attention.wv], rows)
        self.out = PackedLinear([attention.wo], rows)
        self.gate, self.hidden = PackedLinear([forward.w1], rows), PackedLinear([forward.w3], rows)
        self.down = PackedLinear([forward.w2], rows)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, before rotation: they depend on nothing but ``x`` ``(N, D)``."""
        return self.joined(self.layer.attention_norm(x))

    def forward(self, x: Tensor, projected: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        """``(N, D)``, which is changed, and what :meth:`project` made of it, to the layer's output ``(N, D)``."""
        heads = projected.unflatten(-1, (-1, self.head_dim))
        both, values = heads.tensor_split([self.turned // self.head_dim], 1)
        queries, keys = turn.turn_in_place(both).tensor_split([self.queries], 1)
        x = x.add_(self.out(attend(queries, keys, values).flatten(-2)))
        normed = self.layer.ffn_norm(x)
        return x.add_(self.down(F.silu(self.gate(normed), inplace=True).mul_(self.hidden(normed))))


class PackedRotaryLayers:
    """All layers of a unit transformer from tokens to logits.

    What the first layer makes of a position before rotation depends on the token alone, and is looked up.

    Args:
        embeddings: of the tokens, ``(V, D)``.
        layers: the :class:`RotaryLayer` of the model, in evaluation mode.
        rows: about how many positions there will be at a time.
    """

    def __init__(self, embeddings: Tensor, layers: Iterable[Any], rows: int) -> None:
        self.embeddings = embeddings
        self.layers = [PackedRotaryLayer(layer, rows) for layer in layers]
        self.first = self.layers[0].project(embeddings)  # (V, (heads + 2 · kv_heads) · d)

    def states(self, tokens: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        """States ``(N, D)``, not normalised, of tokens ``(N,)``."""
        x = F.embedding(tokens, self.embeddings)
        projected = F.embedding(tokens, self.first)
        for number, layer in enumerate(self.layers):
            x = layer.forward(x, layer.project(x) if number else projected, turn, attend)
        return x
