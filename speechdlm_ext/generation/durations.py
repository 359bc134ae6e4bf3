"""How long a unit goes on: the counters of duration-driven decoding."""

from __future__ import annotations

import torch
from torch import Tensor


class DurationCounter:
    """Counts, for each row and channel, the frames for which the last unit is still to be repeated.

    At an edge the model says how long the new run is, one frame late with a delayed duration target; from then on the
    unit is repeated until the counter is spent, and only then is a new unit drawn (Nguyen et al. 2022, section 4.3).

    Args:
        rows, channels: shape of the counters.
        delayed: whether durations are read one frame after the edge.
        temperature: divides predicted durations.
    """

    def __init__(self, rows: int, channels: int, delayed: bool, temperature: float, device: torch.device) -> None:
        self.delayed = delayed
        self.temperature = temperature
        self.left = torch.ones(rows, channels, dtype=torch.long, device=device)
        self.read = torch.zeros(rows, channels, dtype=torch.bool, device=device)

    def advance(self, predicted: Tensor, repeated: Tensor | None) -> Tensor:
        """Take one step.

        Args:
            predicted: durations said at the last frame, ``(rows, channels)``, in frames.
            repeated: whether the last unit equals the one before it ``(rows, channels)``; ``None`` at the first step.

        Returns:
            Where the last unit must be repeated, ``(rows, channels)`` bool.
        """
        frames = (predicted / self.temperature).round().long().clamp(min=1)
        if self.delayed:
            return self._advance_delayed(frames, repeated)
        if repeated is not None:
            # A run that was just given its length but only repeats the unit before it is no new run.
            self.left[self.read & repeated] = 2
            self.left = (self.left - repeated.long()).clamp(min=1)
        repeat = self.left != 1
        self.read = ~repeat
        self.left = torch.where(self.read, frames, self.left)
        return repeat

    def _advance_delayed(self, frames: Tensor, repeated: Tensor | None) -> Tensor:
        if repeated is not None:
            frames = frames.masked_fill(repeated, 1)
            self.left = (self.left - ((self.left == 1) | repeated).long()).clamp(min=0)
        self.left = torch.where(self.left == 0, frames, self.left)
        return self.left != 1

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order."""
        self.left, self.read = self.left[rows], self.read[rows]
