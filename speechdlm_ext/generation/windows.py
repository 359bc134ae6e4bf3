"""Models fed frame by frame, with caches whose window slides when they are full."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError

# Sizes of the caches of compiled steps are multiples of this.
CAPACITIES = 256


def compiled_step(decoder: Any) -> Any:
    """A decoder's forward pass compiled whole; each number of rows has a graph of its own, on a GPU a CUDA graph."""
    if "_compiled_step" not in vars(decoder):
        how: dict[str, Any] = {"mode": "reduce-overhead"} if next(decoder.parameters()).is_cuda else {}
        vars(decoder)["_compiled_step"] = torch.compile(decoder.forward, fullgraph=True, dynamic=False, **how)
    return vars(decoder)["_compiled_step"]


class ModelWindow:
    """An ensemble of decoders over a growing history of units.

    When the window (the frames that the models were built for, or fewer) is full, its second half is encoded anew as
    the beginning of a fresh window, as blocks of training data begin; or, where all decoders' caches roll, the oldest
    frame is forgotten. Memory and mean time per frame stay constant.

    Args:
        decoders: of the models, over the same dictionary. Of each is needed: ``make_cache(capacity, static)`` and
            ``rolling``; ``decoder(tokens (B, T, C), cache=cache.extend(T))``, which returns predictions
            (:class:`~speechdlm_ext.modules.prediction.Prediction`) by output head, and an ignored rest;
            ``extract_features(tokens, cache)``, which reads without predicting. Of a cache: ``extend``, ``select``,
            ``clear`` and ``length``, as :class:`~speechdlm_ext.modules.cache.DecoderCache` has them.
        limit: the greatest number of frames that all of them know.
        length: frames that will be asked for in all, so that short sequences take little memory.
        slide: whether the window may slide.
        compile: whether to compile the steps of one frame.
    """

    def __init__(
        self, decoders: Sequence[Any], limit: int, length: int, slide: bool = True, compile: bool = False
    ) -> None:
        if length > limit and not slide:
            raise InputError(
                f"{length} frames are asked for, the model's window has {limit} (--tokens-per-sample in training): "
                "ask for less, or let the window slide"
            )
        self.size = min(limit, length)
        self.slides = length > limit and not all(decoder.rolling for decoder in decoders)
        self.decoders = list(decoders)
        # Compiled steps are made for one size of the cache: sequences of like length share them.
        capacity = -(-self.size // CAPACITIES) * CAPACITIES if compile and not self.slides else self.size
        self.caches = [decoder.make_cache(min(capacity, limit), compile) for decoder in decoders]
        self.steps = [compiled_step(decoder) if compile else decoder for decoder in decoders]
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
        if not self.slides:
            parts = [self._run(chunk, temperature) for chunk in units.split(self.size, 1)]
        else:
            parts = []
            self.history = torch.cat([self.history, units], 1)[:, -2 * self.size :] if self.history.numel() else units
            while units.size(1):
                if self.caches[0].length == self.size:
                    self._slide(units.size(1))
                room = self.size - self.caches[0].length
                parts.append(self._run(units[:, :room], temperature))
                units = units[:, room:]
        if len(parts) == 1:
            return parts[0]
        durations = [part[1] for part in parts if part[1] is not None]
        return torch.cat([part[0] for part in parts], 1), torch.cat(durations, 1) if durations else None

    def _slide(self, pending: int) -> None:
        """Start a fresh window with the second half of the frames before the ``pending`` ones."""
        keep = max(self.size // 2, 1)
        end = self.history.size(1) - pending
        kept = self.history[:, max(end - keep, 0) : end]
        for decoder, cache in zip(self.decoders, self.caches, strict=True):
            cache.clear()
            decoder.extract_features(kept, cache.extend(kept.size(1)))

    def _run(self, units: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor | None]:
        lprobs, durations = [], []
        for decoder, step, cache in zip(self.decoders, self.steps, self.caches, strict=True):
            run = step if units.size(1) == 1 and cache.length else decoder
            (prediction, *_), _ = run(units, cache=cache.extend(units.size(1)))
            lprobs.append(F.log_softmax(prediction.units.float() / temperature[:, None], -1))
            if prediction.durations is not None:
                durations.append(prediction.durations.float())
        if len(lprobs) == 1:
            return lprobs[0], durations[0] if durations else None
        mean = torch.logsumexp(torch.stack(lprobs), 0) - math.log(len(lprobs))
        return mean, torch.stack(durations).mean(0) if durations else None

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order, repeated where named twice."""
        if self.slides and self.history.numel():
            self.history = self.history[rows]
        for cache in self.caches:
            cache.select(rows)
