"""What decoding asks of a model: to read sequences piece by piece, and to say what follows."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.prediction import Prediction


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


class Reading(Protocol):
    """What a decoder has read of every row so far."""

    @property
    def length(self) -> int:
        """Positions read."""

    def read(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        """Read on.

        Args:
            units: ``(rows, n, C)``, without padding.

        Returns:
            What follows each of them: logits ``(rows, n, C, V)``; durations in frames ``(rows, n, C)``, or ``None``.
        """

    def skip(self, units: Tensor) -> None:
        """Read on without saying what follows."""

    def reorder(self, rows: Tensor) -> None:
        """Keep the given rows, in that order, repeated where named twice."""

    def clear(self) -> None:
        """Forget everything; memory is kept."""


class Reader(Protocol):
    """A decoder made ready for decoding; it need not see later changes of the weights.

    Attributes:
        rolls: whether what it reads may be longer than the capacity, the oldest positions being forgotten one by one.
    """

    rolls: bool

    def start(self, capacity: int) -> Reading:
        """Begin sequences of up to ``capacity`` positions."""


class RecurrentReader(Reader):
    """Reads with a recurrent decoder, whose state is of one size however long the sequence.

    Args:
        decoder: a :class:`~speechdlm_ext.models.unit_lstm.UnitLSTMDecoder` in evaluation mode.
    """

    rolls = True

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def start(self, capacity: int) -> RecurrentReading:
        """Begin sequences; the state has no capacity: nothing is forgotten."""
        return RecurrentReading(self.decoder)


class RecurrentReading(Reading):
    """The state ``(layers, rows, H)`` of an LSTM; see :class:`Reading`."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.read_so_far = 0
        self.state: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """Positions read."""
        return self.read_so_far

    def read(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Reading.read`; C is 1."""
        states, self.state = self.decoder.lstm(self.decoder.embedding(units[..., 0].t()), self.state)  # (n, rows, H)
        self.read_so_far += units.size(1)
        return speak(self.decoder, states.transpose(0, 1))

    def skip(self, units: Tensor) -> None:
        """See :meth:`Reading.skip`."""
        self.read(units)

    def reorder(self, rows: Tensor) -> None:
        """See :meth:`Reading.reorder`."""
        if self.state is not None:
            hidden, cell = self.state
            self.state = hidden[:, rows], cell[:, rows]

    def clear(self) -> None:
        """See :meth:`Reading.clear`."""
        self.state = None
        self.read_so_far = 0


class CachedReading(Reading):
    """Positions read by a transformer, their keys and values in a :class:`DecoderCache`.

    Args:
        capacity: the greatest number of positions.
        channels: C; the cache's rows are batch rows times channels.
    """

    def __init__(self, capacity: int, channels: int) -> None:
        self.cache = DecoderCache(capacity)
        self.channels = channels

    @property
    def length(self) -> int:
        """Positions read."""
        return self.cache.length

    def reorder(self, rows: Tensor) -> None:
        """See :meth:`Reading.reorder`."""
        self.cache.select(rows, self.channels)

    def clear(self) -> None:
        """See :meth:`Reading.clear`."""
        self.cache.clear()


def speak(decoder: Any, states: Tensor) -> tuple[Tensor, Tensor | None]:
    """States ``(rows, n, D)`` of a unit language model as logits ``(rows, n, 1, V)`` and durations ``(rows, n, 1)``."""
    head = decoder.output_duration
    durations = None if head is None else F.linear(states, head.weight, head.bias)
    return decoder.output(states).unsqueeze(2), durations


class ReaderDecoder:
    """A decoder with a :class:`Reader` in the form that the generator expects; until no decoder has one."""

    rolling = True

    def __init__(self, decoder: Any, rows: int) -> None:
        self.reader = decoder.reader(rows)

    def make_cache(self, capacity: int, static: bool = False) -> ReadingCache:
        """An empty cache."""
        return ReadingCache(self.reader.start(capacity))

    def __call__(self, tokens: Tensor, cache: ReadingCache) -> tuple[list[Prediction], dict[str, Any]]:
        """Read on."""
        return [Prediction(*cache.reading.read(tokens))], {}

    def extract_features(self, tokens: Tensor, cache: ReadingCache) -> None:
        """Read on without predicting."""
        cache.reading.skip(tokens)


class ReadingCache:
    """A :class:`Reading` with the interface of :class:`~speechdlm_ext.modules.cache.DecoderCache`."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.select, self.clear = reading.reorder, reading.clear

    @property
    def length(self) -> int:
        """Positions read."""
        return self.reading.length

    def extend(self, count: int) -> ReadingCache:
        """Nothing to do."""
        return self
