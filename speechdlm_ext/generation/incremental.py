"""What decoding asks of a model: to read sequences piece by piece, and to say what follows."""

from __future__ import annotations

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.modules.cache import DecoderCache


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
