"""How long a unit goes on: the counters of duration-driven decoding."""

from __future__ import annotations

import torch
from torch import Tensor


class DurationCounter:
    """Counts, for each row and channel, the frames for which the last unit is still to be repeated.

    At an edge the model predicts how long the new run is, one frame late with a delayed duration target; from then on
    the unit is repeated until the counter is spent, and only then is a new unit chosen (Nguyen et al. 2022, section
    4.3).

    Args:
        rows, channels: shape of the counters.
        delayed: whether durations are predicted one frame after the edge.
        temperature: divides predicted durations.
    """

    def __init__(self, rows: int, channels: int, delayed: bool, temperature: float, device: torch.device) -> None:
        self.delayed = delayed
        self.temperature = temperature
        self.left = torch.ones(rows, channels, dtype=torch.long, device=device)
        self.read = torch.zeros(rows, channels, dtype=torch.bool, device=device)

    def advance(self, predicted: Tensor, repeated: Tensor) -> Tensor:
        """Take one step.

        Args:
            predicted: durations predicted at the last frame, ``(rows, channels)``, in frames.
            repeated: whether the last unit equals the one before it, ``(rows, channels)``; True at the first step.

        Returns:
            Where the last unit must be repeated, ``(rows, channels)`` bool.
        """
        frames = self._frames(predicted)
        # A run that was just given its length but only repeats the unit before it is no new run.
        counted = torch.where(repeated, (self.left - 1).clamp(min=1).masked_fill(self.read, 1), self.left)
        if self.delayed:
            # A new length is taken at an edge alone, which the frame after it is not.
            self.left = torch.where(repeated, counted, torch.where(self.left == 1, frames, self.left))
            return self.left != 1
        self.read = counted == 1
        self.left = torch.where(self.read, frames, counted)
        return ~self.read

    def read_prompt(self, predicted: Tensor, repeated: Tensor) -> Tensor:
        """All steps of a prompt at once.

        The counter is set at some frames, and from one of them the next can be looked up: after as many repetitions as
        the length there says. So the last one is found by following these links, twice as far at each turn.

        Args:
            predicted: durations predicted at each frame, ``(rows, T, channels)``, in frames.
            repeated: whether each frame's unit equals the one before it, ``(rows, T, channels)``; True at the first.

        Returns:
            Where the last unit must be repeated, ``(rows, channels)`` bool.
        """
        frames = self._frames(predicted).transpose(1, 2).contiguous()  # (rows, C, T)
        repeated = repeated.transpose(1, 2).contiguous()
        length = frames.size(2)
        index = torch.arange(length, device=frames.device).expand_as(frames)
        repeats = repeated.long().cumsum(2)
        if self.delayed:
            # Set at frames that repeat nothing, once the counter is down to 1, as it is at first.
            frames[..., 0] = 1
            due = repeats + frames - 1
            edges = (~repeated).long().cumsum(2)  # frames up to each one that repeat nothing
            number = torch.searchsorted(repeats, due)  # the first frame with so many repetitions
            before = torch.cat([torch.zeros_like(edges[..., :1]), edges], 2)
            nth = torch.maximum(before.gather(2, number), edges)  # so many are passed over
            following = torch.searchsorted(edges, nth + 1)
        else:
            # Set wherever the counter is 1; at the next frame if that repeats, as no new run has begun.
            at_once = torch.cat([repeated[..., 1:], repeated.new_ones(*repeated.shape[:2], 1)], 2) | (frames == 1)
            following = torch.where(at_once, index + 1, torch.searchsorted(repeats, repeats + frames - 1))
        following = following.clamp(max=length)
        link = torch.cat([following, torch.full_like(following[..., :1], length)], 2)
        links = [link]
        while len(links) < length.bit_length():
            links.append(links[-1].gather(2, links[-1]))
        last = torch.zeros_like(link[..., :1])
        for link in reversed(links):
            further = link.gather(2, last)
            last = torch.where(further < length, further, last)
        left = (frames - (repeats[..., -1:] - repeats)).gather(2, last).clamp(min=1).squeeze(2)
        self.read = (last.squeeze(2) == length - 1) & (not self.delayed)
        self.left = torch.where(self.read, frames[..., -1], left)
        return ~self.read if not self.delayed else self.left != 1

    def _frames(self, predicted: Tensor) -> Tensor:
        return (predicted / self.temperature).round().long().clamp(min=1)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order."""
        self.left, self.read = self.left[rows], self.read[rows]
