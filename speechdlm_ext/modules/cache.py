"""Keys and values of finished positions, in buffers of fixed capacity that are written in place."""

from __future__ import annotations

import torch
from torch import Tensor

from speechdlm_ext.errors import InputError


class AttentionCache:
    """Keys and values of one attention block, ``(rows, heads, capacity, head dimension)`` each."""

    def __init__(self, capacity: int, like: Tensor) -> None:
        rows, heads, _, head_dim = like.shape
        self._both = like.new_zeros((2, rows, heads, capacity, head_dim))

    @property
    def both(self) -> Tensor:
        """Keys and values, ``(2, rows, heads, capacity, head dimension)``; another tensor after :meth:`select`."""
        return self._both

    @property
    def keys(self) -> Tensor:
        """The keys; what is behind the positions written so far means nothing."""
        return self._both[0]

    @property
    def values(self) -> Tensor:
        """The values, likewise."""
        return self._both[1]

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``(rows, heads, n, head dimension)`` at ``start`` and return everything up to ``start + n``."""
        end = start + keys.size(2)
        self._both[0, :, :, start:end] = keys
        self._both[1, :, :, start:end] = values
        return self._both[0, :, :, :end], self._both[1, :, :, :end]

    def append(self, start: int, both: Tensor) -> tuple[Tensor, Tensor]:
        """The same with keys and values in one tensor ``(2, rows, heads, n, head dimension)``."""
        end = start + both.size(3)
        self._both[:, :, :, start:end] = both
        return self._both[0, :, :, :end], self._both[1, :, :, :end]

    def select(self, rows: Tensor, used: float) -> None:
        """Keep the given rows, in that order, repeated where they are named twice; a share ``used`` is filled."""
        if len(rows) == self._both.size(1):
            end = round(used * self._both.size(3))
            self._both[:, :, :, :end] = self._both[:, rows, :, :end]
        else:
            self._both = self._both.index_select(1, rows)


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

    def block(self, layer: int, name: str, like: Tensor | None = None, sources: int = 1) -> AttentionCache:
        """The cache of one attention block, made at its first use.

        Args:
            layer: number of the layer.
            name: which of the layer's blocks.
            like: keys ``(rows, heads, n, head dimension)``, for their shape and kind; needed at the first use.
            sources: keys for each position.
        """
        key = (layer, name)
        if key not in self._blocks:
            assert like is not None
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
