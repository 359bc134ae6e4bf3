"""The unit transformer's next step for one unit of every row: the same as its forward pass, arranged for speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.generation.compiled_rotary import CompiledRotary, as_array, can_compile
from speechdlm_ext.generation.incremental import CachedReading, Reader, speak
from speechdlm_ext.modules.packed_linear import PackedLinear
from speechdlm_ext.modules.packing import causal_attention
from speechdlm_ext.modules.rotary import Rotation
from speechdlm_ext.modules.rotary_layer import RotaryLayer


class RotaryReader(Reader):
    """A unit transformer made ready for steps, which are bound by reading the weights.

    Few rows go through compiled loops, more through weights that are joined and packed.

    Args:
        decoder: a :class:`~speechdlm_ext.models.unit_lm.UnitLMDecoder` in evaluation mode.
        rows: about how many rows there will be.
        compiled: whether to use compiled loops; where they are the fastest, if not given.
    """

    rolls = True

    def __init__(self, decoder: Any, rows: int, compiled: bool | None = None) -> None:
        self.decoder = decoder
        self.units = decoder.output.out_features
        self.compiled: CompiledRotary | None = None
        if can_compile(decoder, rows) if compiled is None else compiled:
            self.compiled = CompiledRotary(decoder)
            return
        self.layers = [_SteppingLayer(layer, rows) for layer in decoder.layers]
        # Durations are one more output of the projection to units.
        heads = [decoder.output, *([] if decoder.output_duration is None else [decoder.output_duration])]
        self.head = PackedLinear(heads, rows)

    def start(self, capacity: int) -> RotaryReading:
        """Begin sequences, each of whose units attends to itself and the ``capacity`` - 1 before it."""
        return RotaryReading(self, capacity)


class RotaryReading(CachedReading):
    """Units read so far; see :class:`~speechdlm_ext.generation.incremental.Reading`. C is 1.

    Keys keep the positions by which they were turned, so that those of the oldest units can be overwritten when the
    cache is full: what is attended to is exact, and nothing is read anew.
    """

    def __init__(self, reader: RotaryReader, capacity: int) -> None:
        super().__init__(capacity, 1)
        self.reader, self.decoder = reader, reader.decoder
        self.position = 0
        self._arrays: list[np.ndarray] = []

    @property
    def length(self) -> int:
        """Positions read."""
        return self.position

    def read(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        """One unit by the reader's steps, several by the layers themselves."""
        if units.size(1) > 1 or not self.length:
            return speak(self.decoder, self._extract(units[..., 0]))
        x = self.decoder.tok_embeddings(units[:, 0, 0])  # (rows, D)
        out = self._compiled_step(x) if self.reader.compiled else self._packed_step(x)
        self._advance(1)
        out = out.view(len(x), 1, 1, -1)
        split = self.reader.units
        return out[..., :split], out[..., split] if out.size(-1) > split else None

    def _compiled_step(self, x: Tensor) -> Tensor:
        assert self.reader.compiled is not None
        if not self._arrays:
            self._arrays = [as_array(self.cache.block(i, "self").both) for i in range(len(self.decoder.layers))]
        capacity = self.cache.capacity
        slot, seen = self.position % capacity, min(self.position + 1, capacity)
        return self.reader.compiled(x, self._arrays, self.position, slot, seen)

    def _packed_step(self, x: Tensor) -> Tensor:
        turn = self._turn(1)
        for number, layer in enumerate(self.reader.layers):
            x = layer.step(x, turn, self, number)
        return self.reader.head(self.decoder.norm(x))

    def skip(self, units: Tensor) -> None:
        """See :meth:`~speechdlm_ext.generation.incremental.Reading.skip`."""
        self._extract(units[..., 0])

    def reorder(self, rows: Tensor) -> None:
        """See :meth:`~speechdlm_ext.generation.incremental.Reading.reorder`."""
        super().reorder(rows)
        self._arrays = []

    def clear(self) -> None:
        """See :meth:`~speechdlm_ext.generation.incremental.Reading.clear`."""
        super().clear()
        self.position = 0

    def _extract(self, tokens: Tensor) -> Tensor:
        """States ``(rows, n, D)`` of tokens ``(rows, n)``, no more of them at once than the cache holds."""
        pieces = [self._extract_piece(piece) for piece in tokens.split(self.cache.capacity, 1)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def _extract_piece(self, tokens: Tensor) -> Tensor:
        count = tokens.size(1)
        x, turn = self.decoder.tok_embeddings(tokens), self._turn(count)
        mask = _visible(self.cache.length, count, self.cache.capacity, tokens.device)
        for number, layer in enumerate(self.decoder.layers):

            def attend(q: Tensor, k: Tensor, v: Tensor, number: int = number) -> Tensor:
                k, v = self._extend(number, k.transpose(1, 2), v.transpose(1, 2))
                return causal_attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)

            x = layer(x, turn, attend)
        self._advance(count)
        states: Tensor = self.decoder.norm(x)
        return states

    def _advance(self, count: int) -> None:
        self.position += count
        self.cache.length = min(self.position, self.cache.capacity)

    def _turn(self, count: int) -> Rotation:
        """The rotation of the next ``count`` positions."""
        positions = torch.arange(self.position, self.position + count, device=self.decoder.output.weight.device)
        return Rotation(positions, self.decoder.head_dim, self.decoder.args.rope_theta)

    def _extend(self, number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values ``(rows, heads, n, d)`` of a layer; those that it had, the oldest first, and these."""
        block, capacity = self.cache.block(number, "self", keys), self.cache.capacity
        start, count = self.position, keys.size(2)
        if start + count <= capacity:
            return block.extend(start, keys, values)
        slots = torch.arange(start - self.cache.length, start + count, device=keys.device) % capacity
        old, new = slots[: self.cache.length], slots[-min(count, capacity) :]
        heard = torch.cat([block.both[:, :, :, old], torch.stack([keys, values])], 3)
        block.both[:, :, :, new] = heard[:, :, :, -len(new) :]
        return heard[0], heard[1]

    def extend_by_one(self, number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values ``(rows, heads, 1, d)`` of a layer; all that it has, in any order."""
        block, capacity = self.cache.block(number, "self", keys), self.cache.capacity
        block.extend(self.position % capacity, keys, values)
        seen = min(self.position + 1, capacity)
        return block.keys[:, :, :seen], block.values[:, :, :seen]


def _visible(kept: int, count: int, capacity: int, device: torch.device) -> Tensor | None:
    """What ``count`` positions after ``kept`` others may attend to, ``(count, kept + count)``; None if causal."""
    if not kept or (count == 1 and kept < capacity):
        return None
    mask = torch.ones(count, kept + count, dtype=torch.bool, device=device).tril(kept)
    return mask.triu(kept - capacity + 1)


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
        keys, values = reading.extend_by_one(number, keys.unsqueeze(2), values.unsqueeze(2))
        # The queries that share keys stand side by side as if they were positions.
        queries = queries.unflatten(1, (self.kv_heads, -1))  # (rows, KV, heads / KV, d)
        heard = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.out(heard.flatten(1))
        gate, hidden = self.up(self.layer.ffn_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * hidden)
