"""What a vocoder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Vocoder(Protocol):
    """Turns units into sound, each channel by itself.

    Attributes:
        frame_rate: of the units, in Hz.
        sample_rate: of the sound, in Hz.
        units: the number of units K that it knows: 0 … K-1.
        codebook_fingerprint: of the codebook that the units must come from; None where that is not known.
        predicts_durations: whether it can tell how long units last that come without durations.
    """

    frame_rate: float
    sample_rate: int

    @property
    def units(self) -> int: ...

    @property
    def codebook_fingerprint(self) -> str | None: ...

    @property
    def predicts_durations(self) -> bool: ...

    @property
    def settings(self) -> dict[str, Any]:
        """What the sound depends on beside the units, in values that JSON can hold."""
        ...

    def decode(self, units: torch.Tensor) -> torch.Tensor:
        """Sound (B, C, N) of units (B, T, C), with ``N = T * sample_rate / frame_rate``."""
        ...

    def predict_durations(self, units: torch.Tensor) -> torch.Tensor:
        """Frames (T,) that each of the deduplicated units (T,) lasts, 1 or more."""
        ...
