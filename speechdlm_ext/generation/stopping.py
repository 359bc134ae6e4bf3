"""Where sequences stop: at a number of units, at an end symbol, or when their units last long enough."""

from __future__ import annotations

import torch
from torch import Tensor

from speechdlm_ext.generation.options import DecodingOptions


class StoppingCriteria:
    """Which of the rows have ended, and how long they are.

    Args:
        prompts: units of each row's prompt, ``(rows,)``, which are never cut.
        limit: units at which every row ends.
        channels: C.
        given: frames of the prompts' units, ``(rows, P, C)``, 0 where the model predicts them; ``None`` for all.

    Attributes:
        early: whether rows can end before ``limit``.
        ended: ``(rows,)`` bool.
        by_symbol: whether the end symbol ended the row, ``(rows,)`` bool.
        lengths: units of each row, the end symbol not counted, ``(rows,)``.
        durations: frames of each unit, ``(rows, limit, C)``; ``None`` until any were predicted.
    """

    def __init__(
        self, prompts: Tensor, limit: int, channels: int, options: DecodingOptions, given: Tensor | None = None
    ) -> None:
        self.prompts, self.limit, self.channels, self.options, self.given = prompts, limit, channels, options, given
        self.early = options.stop_at_end or options.max_frames is not None
        self.ended = torch.zeros_like(prompts, dtype=torch.bool)
        self.by_symbol = self.ended.clone()
        self.lengths = torch.full_like(prompts, limit)
        self.durations: Tensor | None = None
        self.frames = prompts.new_zeros(len(prompts), channels)  # so far

    def end(self, rows: Tensor, length: int) -> None:
        """End the given rows ``(rows,)`` bool by the symbol, after ``length`` units, if they have not ended yet."""
        now = rows & ~self.ended
        self.by_symbol |= now
        self._stop(now, length)

    def add_durations(self, predicted: Tensor, length: int) -> None:
        """Note how long the last units before ``length`` last: ``(rows, n, C)`` in frames, as the model predicts."""
        if self.durations is None:
            self.durations = self.lengths.new_zeros(len(self.lengths), self.limit, self.channels)
        frames = (predicted / self.options.duration_temperature).round().long().clamp(min=1)
        units = slice(length - predicted.size(1), length)
        if self.given is not None:
            known = self.given[:, units]
            frames[:, : known.size(1)] = torch.where(known > 0, known, frames[:, : known.size(1)])
        frames = frames.masked_fill(self.ended[:, None, None], 0)
        self.durations[:, units] = frames
        self.frames = self.frames + frames.sum(1)

    def stop_full(self, length: int) -> Tensor | None:
        """End the rows that are long enough at ``length`` units by their number or their frames.

        Returns:
            Which of them end now, ``(rows,)`` bool; ``None`` where none can.
        """
        by_frames = self.options.max_frames is not None and self.durations is not None
        if length < self.limit and not by_frames:
            return None
        now = ~self.ended
        if by_frames and self.durations is not None and self.options.max_frames is not None:
            excess = self.frames.amax(-1) - self.options.max_frames
            if length < self.limit:
                now = now & (excess >= 0) & (self.prompts <= length)
            if length:
                cut = excess.clamp(min=0) * (now & (self.prompts < length))
                last = self.durations[:, length - 1]
                self.durations[:, length - 1] = (last - cut.unsqueeze(-1)).clamp(min=1).where(last > 0, 0)
        self._stop(now, length)
        return now

    def _stop(self, now: Tensor, length: int) -> None:
        self.ended = self.ended | now
        self.lengths = torch.where(now, length, self.lengths)

    def force_eos(self, lprobs: Tensor, eos: int) -> Tensor:
        """Log-probabilities ``(rows, C, V)`` in which rows that have ended can only stay so, at no cost."""
        if not self.early:
            return lprobs
        still = torch.full_like(lprobs[:1], -torch.inf)
        still[..., eos] = 0.0
        return torch.where(self.ended[:, None, None], still, lprobs)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order, repeated where named twice."""
        for name in ("prompts", "ended", "by_symbol", "lengths", "durations", "given", "frames"):
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, values[rows])
