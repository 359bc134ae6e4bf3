"""Models fed frame by frame, with a cache whose window slides when it is full."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.stepping import SteppingDecoder
from speechdlm_ext.modules.cache import DecoderCache


class ModelWindow:
    """An ensemble of models over a growing history of units.

    When the window (the frames that the models were built for) is full, its second half is encoded anew as the
    beginning of a fresh window, as blocks of training data begin: memory and mean time per frame stay constant.

    Args:
        models: models with a ``decoder`` and the same dictionary.
        length: frames that will be asked for in all, so that short sequences take little memory.
        slide: whether the window may slide.
        steppers: the models' decoders, made ready for single frames; without them the decoders read those, too.
    """

    def __init__(
        self, models: Sequence[Any], length: int, slide: bool = True, steppers: Sequence[SteppingDecoder] = ()
    ) -> None:
        self.models = list(models)
        self.steppers = list(steppers)
        limit = min(model.max_decoder_positions() for model in models)
        if length > limit and not slide:
            raise InputError(
                f"{length} frames are asked for, the model's window has {limit} (--tokens-per-sample in training): "
                "ask for less, or let the window slide"
            )
        self.size = min(limit, length)
        self.caches = [DecoderCache(self.size) for _ in self.models]
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
        self.history = torch.cat([self.history, units], 1)[:, -2 * self.size :] if self.history.numel() else units
        while units.size(1):
            room = self.size - self.caches[0].length
            if not room:
                self._slide(units.size(1))
                room = self.size - self.caches[0].length
            parts.append(self._run(units[:, :room], temperature))
            units = units[:, room:]
        if len(parts) == 1:
            return parts[0]
        lprobs = torch.cat([part[0] for part in parts], 1)
        durations = [part[1] for part in parts if part[1] is not None]
        return lprobs, torch.cat(durations, 1) if durations else None

    def _slide(self, pending: int) -> None:
        """Start a fresh window with the second half of the frames before the ``pending`` ones."""
        keep = max(self.size // 2, 1)
        end = self.history.size(1) - pending
        for model, cache in zip(self.models, self.caches, strict=True):
            cache.clear()
            model.decoder.extract_features(self.history[:, max(end - keep, 0) : end], cache)

    def _run(self, units: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor | None]:
        lprobs, durations = [], []
        for number, cache in enumerate(self.caches):
            logits, frames = self._predict(number, units, cache)
            lprobs.append(F.log_softmax(logits.float() / temperature[:, None], -1))
            if frames is not None:
                durations.append(frames.float())
        if len(self.models) == 1:
            return lprobs[0], durations[0] if durations else None
        mean = torch.logsumexp(torch.stack(lprobs), 0) - math.log(len(lprobs))
        return mean, torch.stack(durations).mean(0) if durations else None

    def _predict(self, number: int, units: Tensor, cache: DecoderCache) -> tuple[Tensor, Tensor | None]:
        """Logits and durations of one model, ``(rows, n, C, V)`` and ``(rows, n, C)``."""
        if self.steppers and units.size(1) == 1 and cache.length:
            logits, frames = self.steppers[number](units[:, 0], cache)
            return logits.unsqueeze(1), None if frames is None else frames.unsqueeze(1)
        (own, *_), _ = self.models[number].decoder(units, cache=cache)
        return own.units, own.durations

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order, repeated where named twice."""
        self.history = self.history[rows]
        for cache in self.caches:
            cache.select(rows, self.history.size(-1))
