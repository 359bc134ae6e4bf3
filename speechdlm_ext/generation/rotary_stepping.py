"""The unit transformer's next step for one unit of every row: the same as its forward pass, arranged for speed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.generation.reading import CachedReading, Reader, speak, visible
from speechdlm_ext.modules.packed_linear import PackedLinear
from speechdlm_ext.modules.packing import causal_attention
from speechdlm_ext.modules.rotary import Rotation
from speechdlm_ext.modules.rotary_layer import RotaryLayer


class RotaryReader(Reader):
    """A unit transformer whose weights are joined and packed, as a step is bound by reading them.

    Args:
        decoder: a :class:`~speechdlm_ext.models.unit_lm.UnitLMDecoder` in evaluation mode.
        rows: about how many rows there will be.
    """

    def __init__(self, decoder: Any, rows: int) -> None:
        self.decoder = decoder
        self.layers = [_SteppingLayer(layer, rows) for layer in decoder.layers]
        # Durations are one more output of the projection to units.
        heads = [decoder.output, *([] if decoder.output_duration is None else [decoder.output_duration])]
        self.head = PackedLinear(heads, rows)
        self.units = decoder.output.out_features

    def start(self, capacity: int) -> RotaryReading:
        """Begin sequences of up to ``capacity`` units."""
        return RotaryReading(self, capacity)


class RotaryReading(CachedReading):
    """Units read so far; see :class:`~speechdlm_ext.generation.reading.Reading`. C is 1."""

    def __init__(self, reader: RotaryReader, capacity: int) -> None:
        super().__init__(capacity, 1)
        self.reader, self.decoder = reader, reader.decoder

    def read(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        """One unit by the packed weights, several by the layers themselves."""
        if units.size(1) > 1 or not self.length:
            return speak(self.decoder, self._extract(units[..., 0]))
        self.cache.reserve(1)
        turn = self._turn(1)
        x = self.decoder.tok_embeddings(units[:, 0, 0])  # (rows, D)
        for number, layer in enumerate(self.reader.layers):
            x = layer.step(x, turn, self, number)
        self.cache.length += 1
        out = self.reader.head(self.decoder.norm(x)).view(len(x), 1, 1, -1)
        split = self.reader.units
        return out[..., :split], out[..., split] if out.size(-1) > split else None

    def skip(self, units: Tensor) -> None:
        """See :meth:`~speechdlm_ext.generation.reading.Reading.skip`."""
        self._extract(units[..., 0])

    def _extract(self, tokens: Tensor) -> Tensor:
        """States ``(rows, n, D)`` of tokens ``(rows, n)``."""
        count = tokens.size(1)
        self.cache.reserve(count)
        x, turn = self.decoder.tok_embeddings(tokens), self._turn(count)
        mask = visible(self.length, count, tokens.device)
        for number, layer in enumerate(self.decoder.layers):

            def attend(q: Tensor, k: Tensor, v: Tensor, number: int = number) -> Tensor:
                k, v = self.extend(number, k.transpose(1, 2), v.transpose(1, 2))
                return causal_attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)

            x = layer(x, turn, attend)
        self.cache.length += count
        states: Tensor = self.decoder.norm(x)
        return states

    def _turn(self, count: int) -> Rotation:
        """The rotation of the next ``count`` positions."""
        positions = torch.arange(self.length, self.length + count, device=self.decoder.output.weight.device)
        return Rotation(positions, self.decoder.head_dim, self.decoder.args.rope_theta)

    def extend(self, number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values ``(rows, heads, n, d)`` of a layer; all that it has."""
        return self.cache.block(number, "self", keys).extend(self.length, keys, values)


class _SteppingLayer:
    """One :class:`RotaryLayer` for a single unit of every row."""

    def __init__(self, layer: RotaryLayer, rows: int) -> None:
        self.layer = layer
        attention, forward = layer.attention, layer.feed_forward
        self.head_dim = attention.head_dim
        self.kv_heads = attention.wk.out_features // self.head_dim
        self.heads = attention.wq.out_features // self.head_dim
        self.joined = PackedLinear([attention.wq, attention.wk, attention.wv], rows)
        self.out = PackedLinear([attention.wo], rows)
        self.up = PackedLinear([forward.w1, forward.w3], rows)
        self.down = PackedLinear([forward.w2], rows)

    def step(self, x: Tensor, turn: Rotation, reading: RotaryReading, number: int) -> Tensor:
        """``(rows, D)`` to the same; see :meth:`RotaryLayer.forward`."""
        joined = self.joined(self.layer.attention_norm(x)).view(len(x), -1, self.head_dim)
        both, values = joined.split([self.heads + self.kv_heads, self.kv_heads], 1)
        queries, keys = turn(both).split([self.heads, self.kv_heads], 1)
        keys, values = reading.extend(number, keys.unsqueeze(2), values.unsqueeze(2))
        # The queries that share keys stand side by side as if they were positions.
        queries = queries.unflatten(1, (self.kv_heads, -1))  # (rows, KV, heads / KV, d)
        heard = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.out(heard.flatten(1))
        gate, hidden = self.up(self.layer.ffn_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * hidden)
