"""The SpeechDLM's next step for one frame of every row: the same as its decoder's forward pass, arranged for speed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.generation.incremental import CachedReading, Reader
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.dialogue_layer import DialogueLayer
from speechdlm_ext.modules.packed_linear import PackedLinear


class SteppingDecoder(Reader):
    """Reads one frame after another with a cache that a decoder began.

    A frame costs one pass over the weights, so they are joined and packed (:class:`PackedLinear`) when this is made;
    it does not see later changes of them. Rows are batch rows times channels, ``N`` = B·C.

    Args:
        decoder: a :class:`~speechdlm_ext.models.speech_dlm_decoder.SpeechDLMDecoder` in evaluation mode.
        rows: about how many batch rows there will be.
    """

    rolls = False

    def __init__(self, decoder: Any, rows: int) -> None:
        self.decoder = decoder
        rows *= decoder.channels
        self.layers = [_SteppingLayer(_plain(layer), decoder.channels, rows) for layer in decoder.layers]
        # Durations are one more output of the projection to units.
        heads = [decoder.output_projection[0], *decoder.output_duration_prediction[:1]]
        self.head = PackedLinear(heads, rows)
        self.units = decoder.output_projection[0].out_features

    def start(self, capacity: int) -> DialogueReading:
        """Begin dialogues of up to ``capacity`` frames."""
        return DialogueReading(self, capacity)

    def __call__(self, units: Tensor, cache: DecoderCache) -> tuple[Tensor, Tensor | None]:
        """Read a frame and predict the next.

        Args:
            units: ``(B, C)``, without padding.
            cache: extended by this frame; not empty.

        Returns:
            Logits ``(B, C, V)`` and durations in frames ``(B, C)``, or ``None``.
        """
        cache.reserve(1)
        x = self.decoder.embed(units.unsqueeze(-1), cache.length).view(units.numel(), -1)
        for number, layer in enumerate(self.layers):
            x = layer.step(x, cache, number)
        cache.length += 1
        if self.decoder.layer_norm is not None:
            x = self.decoder.layer_norm(x)
        out = self.head(x).view(*units.shape, -1)
        return out[..., : self.units], out[..., self.units] if out.size(-1) > self.units else None


class DialogueReading(CachedReading):
    """Frames of dialogues read so far; see :class:`~speechdlm_ext.generation.incremental.Reading`."""

    def __init__(self, stepper: SteppingDecoder, capacity: int) -> None:
        super().__init__(capacity, stepper.decoder.channels)
        self.stepper = stepper

    def read(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        """One frame by the stepper, several by the decoder itself."""
        if units.size(1) == 1 and self.length:
            logits, frames = self.stepper(units[:, 0], self.cache)
            return logits.unsqueeze(1), None if frames is None else frames.unsqueeze(1)
        (own, *_), _ = self.stepper.decoder(units, cache=self.cache)
        return own.units, own.durations

    def skip(self, units: Tensor) -> None:
        """Without the output heads."""
        self.stepper.decoder.extract_features(units, self.cache)


def _plain(layer: Any) -> DialogueLayer:
    """The layer itself, where activation checkpointing wraps it."""
    inner: DialogueLayer = getattr(layer, "_checkpoint_wrapped_module", layer)
    return inner


class _SteppingLayer:
    """One :class:`DialogueLayer` for a single frame."""

    def __init__(self, layer: DialogueLayer, channels: int, rows: int) -> None:
        self.layer, self.channels = layer, channels
        own, cross = layer.self_attn, layer.cross_channel_attn
        self.shape = own.heads, own.head_dim
        self.own = PackedLinear([own.q_proj, own.k_proj, own.v_proj], rows)
        self.own_out = PackedLinear([own.out_proj], rows)
        if cross is not None:
            self.cross_query = PackedLinear([cross.q_proj], rows)
            self.cross_keys = PackedLinear([cross.k_proj, cross.v_proj], rows)
            self.cross_out = PackedLinear([cross.out_proj], rows)
        self.is_relu = layer.activation is F.relu
        self.fc1 = PackedLinear([layer.fc1], rows, relu=self.is_relu)
        self.fc2 = PackedLinear([layer.fc2], rows)

    def step(self, x: Tensor, cache: DecoderCache, number: int) -> Tensor:
        """``(N, D)`` to the same; see :meth:`DialogueLayer.forward`."""
        layer = self.layer
        joined = self.own(layer.self_attn_layer_norm(x)).view(len(x), 3, *self.shape)
        attended = self._attend(joined[:, 0], joined[:, 1:], cache, number, "self", 1)
        x = x + self.own_out(attended)
        if layer.cross_channel_attn is not None:
            query = self.cross_query(layer.cross_channel_attn_layer_norm(x)).view(len(x), *self.shape)
            heard = self._others(self.cross_keys(x).view(-1, self.channels, 2, *self.shape))
            attended = self._attend(query, heard, cache, number, "across", self.channels - 1)
            x = x + self.cross_out(attended)
        hidden = self.fc1(layer.final_layer_norm(x))
        return x + self.fc2(hidden if self.is_relu else layer.activation(hidden))

    def _attend(self, query: Tensor, heard: Tensor, cache: DecoderCache, number: int, name: str, count: int) -> Tensor:
        """Attend to everything in the cache and this frame.

        Args:
            query: ``(N, heads, head dimension)``.
            heard: keys and values of this frame, ``(N, 2·count, heads, head dimension)``, all keys first.
            count: keys for each position.

        Returns:
            ``(N, D)``.
        """
        block = cache.block(number, name)
        heard = heard.view(len(heard), 2, count, *self.shape).permute(1, 0, 3, 2, 4)
        keys, values = block.append(cache.length * count, heard)
        out = F.scaled_dot_product_attention(query.unsqueeze(2), keys, values)
        return out.view(len(query), -1)

    def _others(self, heard: Tensor) -> Tensor:
        """For each channel, the keys, then the values, of all the others: ``(B, C, 2, …)`` to ``(N, 2·(C-1), …)``."""
        if self.channels == 2:
            return heard.flip(1).flatten(0, 1)
        others = [[c for c in range(self.channels) if c != own] for own in range(self.channels)]
        chosen = heard[:, torch.tensor(others, device=heard.device)]  # (B, C, C-1, 2, heads, head dimension)
        return chosen.transpose(2, 3).flatten(2, 3).flatten(0, 1)
