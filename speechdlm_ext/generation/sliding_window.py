"""Models fed frame by frame, with a cache whose window slides when it is full."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.incremental import Reader


class ModelWindow:
    """An ensemble of models over a growing history of units.

    When the window (the frames that the models were built for, or fewer) is full, its second half is encoded anew as
    the beginning of a fresh window, as blocks of training data begin; or, where the models can do so, the oldest frame
    is forgotten. Memory and mean time per frame stay constant.

    Args:
        readers: the models' decoders, made ready, over the same dictionary.
        limit: the greatest number of frames that all of them know.
        length: frames that will be asked for in all, so that short sequences take little memory.
        slide: whether the window may slide.
    """

    def __init__(self, readers: Sequence[Reader], limit: int, length: int, slide: bool = True) -> None:
        if length > limit and not slide:
            raise InputError(
                f"{length} frames are asked for, the model's window has {limit} (--tokens-per-sample in training): "
                "ask for less, or let the window slide"
            )
        self.size = min(limit, length)
        self.slides = length > limit and not all(reader.rolls for reader in readers)
        self.readings = [reader.start(self.size) for reader in readers]
        self.history: Tensor = torch.zeros(0)

    def feed(self, units: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor | None]:
        """Append units and predict what follows each of them.

        Args:
            units: ``(rows, n, C)``.
            temperature: ``(C,)``, divides the logits.

        Returns:
            Log-probabilities ``(rows, n, C, V)`` in fp32, the mean of the models' probabilities; durations in frames
            ``(rows, n, C)``, the mean of the models', or ``None``.
        """
        parts = []
        if self.slides:
            self.history = torch.cat([self.history, units], 1)[:, -2 * self.size :] if self.history.numel() else units
        while self.slides and units.size(1):
            room = self.size - self.readings[0].length
            if not room:
                self._slide(units.size(1))
                room = self.size - self.readings[0].length
            parts.append(self._run(units[:, :room], temperature))
            units = units[:, room:]
        if units.size(1):
            parts.append(self._run(units, temperature))
        if len(parts) == 1:
            return parts[0]
        lprobs = torch.cat([part[0] for part in parts], 1)
        durations = [part[1] for part in parts if part[1] is not None]
        return lprobs, torch.cat(durations, 1) if durations else None

    def _slide(self, pending: int) -> None:
        """Start a fresh window with the second half of the frames before the ``pending`` ones."""
        keep = max(self.size // 2, 1)
        end = self.history.size(1) - pending
        for reading in self.readings:
            reading.clear()
            reading.skip(self.history[:, max(end - keep, 0) : end])

    def _run(self, units: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor | None]:
        lprobs, durations = [], []
        for reading in self.readings:
            logits, frames = reading.read(units)
            lprobs.append(F.log_softmax(logits.float() / temperature[:, None], -1))
            if frames is not None:
                durations.append(frames.float())
        if len(self.readings) == 1:
            return lprobs[0], durations[0] if durations else None
        mean = torch.logsumexp(torch.stack(lprobs), 0) - math.log(len(lprobs))
        return mean, torch.stack(durations).mean(0) if durations else None

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order, repeated where named twice."""
        if self.slides and self.history.numel():
            self.history = self.history[rows]
        for reading in self.readings:
            reading.reorder(rows)
