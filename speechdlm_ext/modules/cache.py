"""Keys and values of the positions that a decoder has read, in buffers of fixed capacity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError


class DecoderCache:
    """The state of a transformer decoder over a growing sequence.

    Before each forward pass the caller makes room for its positions, on the host and without a synchronisation; the
    pass writes keys and values with :meth:`update` and attends under :attr:`mask`::

        cache = decoder.make_cache(capacity)
        heads, _ = decoder(tokens, cache=cache.extend(tokens.size(1)))   # a prompt, then one frame at a time

    Args:
        capacity: greatest number of positions that are kept.
        channels: C; the rows of keys and values are batch rows times channels.
        device: where the decoder is.
        rolling: a full cache forgets its oldest positions instead of being an error, so that each position attends to
            itself and the ``capacity`` - 1 before it. For decoders whose keys carry their own positions (rotary).
        static: single positions attend to the whole buffer under a mask, so that every step has the same shapes and
            the same memory, as compiled steps and CUDA graphs need.

    Attributes:
        length: positions read so far, forgotten ones included.
        positions: numbers of the positions of this forward pass, ``(n,)``.
        mask: what each of them may attend to, bool ``(n, keys)``; ``None`` for everything before it and itself.
    """

    def __init__(
        self,
        capacity: int,
        channels: int = 1,
        device: torch.device | str = "cpu",
        rolling: bool = False,
        static: bool = False,
    ) -> None:
        self.capacity, self.channels, self.device = capacity, channels, device
        self.rolling, self.static = rolling, static
        self.length = 0
        # Keys and values apart: a compiled step writes into a buffer of its own, but copies the whole of a shared one.
        self._buffers: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        if static:
            self._numbers = torch.arange(capacity, device=device).unsqueeze(0)
            self._step = torch.zeros(2, 1, dtype=torch.long, device=device)  # position and slot
            self._seen = torch.zeros(1, capacity, dtype=torch.bool, device=device)

    def extend(self, count: int) -> DecoderCache:
        """Make room for ``count`` positions, which the next forward pass reads; returns the cache.

        Raises:
            InputError: they do not fit, and the cache does not roll.
        """
        start, end = self.length, self.length + count
        if end > self.capacity and not self.rolling:
            raise InputError(
                f"{end} positions asked of a cache with room for {self.capacity}: make the sequence shorter, or let "
                "the window slide"
            )
        self.length = end
        self._first = start % self.capacity
        self._in_place = end <= self.capacity or count == 1
        self._end = min(end, self.capacity)
        self._fixed = self.static and count == 1
        self.mask: Tensor | None = None
        if self._fixed:
            self._step[0].fill_(start)
            self._step[1].fill_(self._first)
            self.positions, self.mask = self._step[0], torch.le(self._numbers, start, out=self._seen)
            return self
        self.positions = torch.arange(start, end, device=self.device)
        if count > 1 and (start or not self._in_place):
            kept = min(start, self.capacity)
            seen = torch.ones(count, kept + count, dtype=torch.bool, device=self.device).tril(kept)
            self.mask = seen.triu(kept - self.capacity + 1)
            # Where a chunk would overwrite what its first positions attend to, it gets a copy in order of time.
            self._kept = torch.arange(start - kept, start, device=self.device) % self.capacity
            self._slots = self.positions[-self.capacity :] % self.capacity
        return self

    def update(self, layer: int, name: str, keys: Tensor, values: Tensor, sources: int = 1) -> tuple[Tensor, Tensor]:
        """Add keys and values of this forward pass.

        Args:
            layer: number of the layer.
            name: which of its attention blocks.
            keys, values: ``(rows, heads, n · sources, head dimension)``, ordered by time, then source.
            sources: keys for each position.

        Returns:
            All that this pass may attend to, ``(rows, heads, keys, head dimension)`` each, under :attr:`mask`.
        """
        buffers = self._buffers.get((layer, name)) or self._make(layer, name, keys, sources)
        if self._fixed:
            slots = self._step[1] * sources + torch.arange(sources, device=keys.device)
            return buffers[0].index_copy_(2, slots, keys), buffers[1].index_copy_(2, slots, values)
        if self._in_place:
            begin, end = self._first * sources, self._end * sources
            for buffer, new in zip(buffers, (keys, values), strict=True):
                buffer[:, :, begin : begin + new.size(2)] = new
            return buffers[0][:, :, :end], buffers[1][:, :, :end]
        assert sources == 1, "a rolling cache holds one key for each position"
        seen = []
        for buffer, new in zip(buffers, (keys, values), strict=True):
            seen.append(torch.cat([buffer[:, :, self._kept], new], 2))
            buffer[:, :, self._slots] = new[:, :, -self.capacity :]
        return seen[0], seen[1]

    def _make(self, layer: int, name: str, keys: Tensor, sources: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one attention block, ``(rows, heads, capacity · sources, head dimension)`` each."""
        rows, heads, _, dim = keys.shape
        shape = rows, heads, self.capacity * sources, dim
        return self._keep((layer, name), keys.new_zeros(shape), keys.new_zeros(shape))

    def _keep(self, name: tuple[int, str], keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.static and keys.is_cuda:  # CUDA graphs write where they were recorded
            torch._dynamo.mark_static_address(keys)
            torch._dynamo.mark_static_address(values)
        self._buffers[name] = keys, values
        return keys, values

    def select(self, rows: Tensor) -> None:
        """Keep the given batch rows with all their channels, in that order, repeated where they are named twice."""
        inner = (rows.unsqueeze(1) * self.channels + torch.arange(self.channels, device=rows.device)).flatten()
        for name, (keys, values) in self._buffers.items():
            if len(inner) != len(keys):
                self._keep(name, keys[inner], values[inner])
            else:
                used = min(self.length, self.capacity) * keys.size(2) // self.capacity
                keys[:, :, :used], values[:, :, :used] = keys[inner, :, :used], values[inner, :, :used]

    def grow(self, capacity: int) -> None:
        """Make room for more positions than before; those of a cache that neither rolls nor is static."""
        for name, (keys, values) in self._buffers.items():
            room = (0, 0, 0, keys.size(2) // self.capacity * (capacity - self.capacity))
            self._keep(name, F.pad(keys, room), F.pad(values, room))
        self.capacity = capacity

    def clear(self) -> None:
        """Forget every position; the buffers are kept."""
        self.length = 0
