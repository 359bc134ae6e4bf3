"""What a decoder of units predicts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Prediction(NamedTuple):
    """What one output head predicts of every channel.

    Head i predicts channel c from the states of channel (c - i) mod C: head 0 predicts each channel from itself.

    Attributes:
        units: logits ``(B, T, C, V)``, or ``(N, V)`` at the positions asked for.
        durations: run lengths in frames ``(B, T, C)`` or ``(N,)``; ``None`` for a model without duration prediction.
    """

    units: Tensor
    durations: Tensor | None
