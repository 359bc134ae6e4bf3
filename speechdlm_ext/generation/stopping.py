"""Where sequences end: at a number of units, at an end symbol, or when their units last long enough."""

from __future__ import annotations

import torch
from torch import Tensor

from speechdlm_ext.generation.options import DecodingOptions


class Endings:
    """Which of the rows have ended, and how long they are.

    Args:
        prompts: units of each row's prompt, ``(rows,)``, which are never cut.
        limit: units at which every row ends.
        channels: C.
        given: frames of the prompts' units, ``(rows, P, C)``, 0 where the model is to say; ``None`` for all of them.

    Attributes:
        ended: ``(rows,)`` bool.
        by_symbol: whether the end symbol ended the row, ``(rows,)`` bool.
        lengths: units of each row, the end symbol not counted, ``(rows,)``.
        durations: frames of each unit, ``(rows, limit, C)``; ``None`` until any were said.
    """

    def __init__(
        self, prompts: Tensor, limit: int, channels: int, options: DecodingOptions, given: Tensor | None = None
    ) -> None:
        self.prompts, self.limit, self.channels, self.options, self.given = prompts, limit, channels, options, given
        self.ended = torch.zeros_like(prompts, dtype=torch.bool)
        self.by_symbol = self.ended.clone()
        self.lengths = torch.full_like(prompts, limit)
        self.durations: Tensor | None = None

    def end(self, rows: Tensor, length: int) -> None:
        """End the given rows ``(rows,)`` bool by the symbol, after ``length`` units, if they have not ended yet."""
        now = rows & ~self.ended
        self.by_symbol |= now
        self._stop(now, length)

    def last(self, said: Tensor, length: int) -> None:
        """Note how long the unit before ``length`` lasts, ``(rows, C)`` in frames as said by the model."""
        if self.durations is None:
            self.durations = torch.zeros(len(said), self.limit, self.channels, dtype=torch.long, device=said.device)
        frames = (said / self.options.duration_temperature).round().long().clamp(min=1)
        if self.given is not None and length <= self.given.size(1):
            known = self.given[:, length - 1]
            frames = torch.where(known > 0, known, frames)
        self.durations[:, length - 1] = frames.masked_fill(self.ended.unsqueeze(-1), 0)

    def full(self, length: int) -> Tensor | None:
        """End the rows that are long enough at ``length`` units by their number or their frames.

        Returns:
            Which of them end now, ``(rows,)`` bool; ``None`` where none can.
        """
        if length == self.limit:
            now = ~self.ended
        elif self.options.max_frames is None or self.durations is None:
            return None
        else:
            now = self._frames().ge(self.options.max_frames) & ~self.ended & (self.prompts <= length)
        if self.options.max_frames is not None and self.durations is not None and length:
            excess = (self._frames() - self.options.max_frames).clamp(min=0) * (now & (self.prompts < length))
            last = self.durations[:, length - 1]
            self.durations[:, length - 1] = (last - excess.unsqueeze(-1)).clamp(min=1).where(last > 0, 0)
        self._stop(now, length)
        return now

    def _frames(self) -> Tensor:
        """Frames of each row so far, of its longest channel, ``(rows,)``."""
        assert self.durations is not None
        return self.durations.sum(1).amax(-1)

    def _stop(self, now: Tensor, length: int) -> None:
        self.ended = self.ended | now
        self.lengths = torch.where(now, length, self.lengths)

    def all_ended(self) -> bool:
        """Whether nothing is left to continue; asked only where a row can end early."""
        early = self.options.stop_at_end or self.options.max_frames is not None
        return early and bool(self.ended.all())

    def hold(self, lprobs: Tensor, eos: int) -> Tensor:
        """Log-probabilities ``(rows, C, V)`` in which rows that have ended can only stay so, at no cost."""
        if not self.options.stop_at_end and self.options.max_frames is None:
            return lprobs
        still = torch.full_like(lprobs[:1], -torch.inf)
        still[..., eos] = 0.0
        return torch.where(self.ended[:, None, None], still, lprobs)

    def durations_of(self, row: int) -> Tensor | None:
        """The durations of a row's units in frames ``(T, C)``, if any were said."""
        return None if self.durations is None else self.durations[row, : int(self.lengths[row])].cpu()

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order, repeated where named twice."""
        for name in ("prompts", "ended", "by_symbol", "lengths", "durations", "given"):
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, values[rows])
