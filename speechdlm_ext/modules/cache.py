"""Keys and values of finished positions, in buffers of fixed capacity that are written in place."""

from __future__ import annotations

import torch
from torch import Tensor

from speechdlm_ext.errors import InputError


class AttentionCache:
    """Keys and values of one attention block, ``(rows, heads, capacity, head dimension)`` each."""

    def __init__(self, capacity: int, like: Tensor) -> None:
        rows, heads, _, head_dim = like.shape
        self.keys = like.new_zeros((rows, heads, capacity, head_dim))
        self.values = like.new_zeros((rows, heads, capacity, head_dim))

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``(rows, heads, n, head dimension)`` at ``start`` and return everything up to ``start + n``."""
        end = start + keys.size(2)
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: Tensor, used: float) -> None:
        """Keep the given rows, in that order, repeated where they are named twice; a share ``used`` is filled."""
        if len(rows) == len(self.keys):
            end = round(used * self.keys.size(2))
            self.keys[:, :, :end] = self.keys[rows, :, :end]
            self.values[:, :, :end] = self.values[rows, :, :end]
        else:
            self.keys = self.keys.index_select(0, rows)
            self.values = self.values.index_select(0, rows)


class DecoderCache:
    """The state of a decoder over a growing sequence: one :class:`AttentionCache` for each attention block.

    Args:
        capacity: the greatest number of positions.

    Attributes:
        length: positions written so far.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._blocks: dict[tuple[int, str], AttentionCache] = {}

    def block(self, layer: int, name: str, like: Tensor, sources: int = 1) -> AttentionCache:
        """The cache of one attention block, made at its first use.

        Args:
            layer: number of the layer.
            name: which of the layer's blocks.
            like: keys ``(rows, heads, n, head dimension)``, for their shape and kind.
            sources: keys for each position.
        """
        key = (layer, name)
        if key not in self._blocks:
            self._blocks[key] = AttentionCache(self.capacity * sources, like)
        return self._blocks[key]

    def reserve(self, positions: int) -> None:
        """Raise :class:`InputError` unless ``positions`` more fit."""
        if self.length + positions > self.capacity:
            raise InputError(
                f"{self.length + positions} positions asked of a cache with room for {self.capacity}: make the "
                "sequence shorter, or let the window slide"
            )

    def select(self, rows: Tensor, channels: int) -> None:
        """Keep the given batch rows, in that order, with all their channels."""
        inner = (rows.unsqueeze(1) * channels + torch.arange(channels, device=rows.device)).flatten()
        for block in self._blocks.values():
            block.select(inner, self.length / self.capacity)

    def clear(self) -> None:
        """Forget every position; the buffers are kept."""
        self.length = 0
