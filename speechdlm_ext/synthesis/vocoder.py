"""What a vocoder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Vocoder(Protocol):
    """Turns units into sound, each channel by itself.

    Attributes:
        frame_rate: of the units, in Hz.
        sample_rate: of the sound, in Hz.
    """

    frame_rate: float
    sample_rate: int

    def decode(self, units: torch.Tensor) -> torch.Tensor:
        """Sound (B, C, N) of units (B, T, C), with ``N = T * sample_rate / frame_rate``."""
        ...
