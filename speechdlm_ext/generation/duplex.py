"""Decoding of duplex models: in each frame one token of text and the codes of the agent's sound, greedy or sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.filters import OFF, top_k_filter, top_p_filter
from speechdlm_ext.generation.search import row_seed, sample


@dataclass(frozen=True)
class DuplexOptions:
    """How frames are decoded; the defaults are the published ones, greedy.

    Attributes:
        temperature: divides the logits of codes; 0 takes the most probable.
        text_temperature: the same for text.
        top_k: sample from this many most probable codes, or tokens; -1 for all.
        top_p: sample from the smallest set whose probability reaches this; -1 for all.
        seed: a row's samples depend on it and on the row's number alone.

    Raises:
        InputError: a value out of range.
    """

    temperature: float = 0.0
    text_temperature: float = 0.0
    top_k: int = OFF
    top_p: float = OFF
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("temperature", "text_temperature"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} {value}: 0 or more is expected")
        if self.top_k != OFF and self.top_k < 1:
            raise InputError(f"--top-k {self.top_k}: 1 or more is expected")
        if self.top_p != OFF and not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p}: above 0 and up to 1 is expected")
        row_seed(self.seed)


class FrameChooser:
    """What is said in each frame, of the logits; random numbers are one stream a row."""

    def __init__(self, options: DuplexOptions, rows: Sequence[int]) -> None:
        self.options = options
        self.random = [np.random.default_rng(np.random.SeedSequence(row_seed(options.seed, row))) for row in rows]

    def choose(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of text ``(B, V)`` and codes ``(B, K, C)`` to a token ``(B,)`` and codes ``(B, K)``."""
        options = self.options
        return self._one(text, options.text_temperature), self._one(codes, options.temperature)

    def _one(self, logits: Tensor, temperature: float) -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        lprobs = (logits.float() / temperature).log_softmax(-1)
        if self.options.top_k != OFF:
            lprobs = top_k_filter(lprobs, self.options.top_k)
        if self.options.top_p != OFF:
            lprobs = top_p_filter(lprobs, self.options.top_p)
        numbers = np.stack([random.random(logits.shape[1:-1], np.float32) for random in self.random])
        return sample(lprobs, torch.from_numpy(numbers).to(logits.device))


@torch.no_grad()
def decode_frames(model: Any, user: Tensor, state: Any, chooser: FrameChooser) -> tuple[Tensor, Tensor]:
    """Go through the user's frames, one after the other.

    Args:
        model: a duplex model in evaluation mode.
        user: embeddings of the user's sound ``(B, T, H)``.
        state: of :meth:`.DuplexS2S.make_state`; it takes up these frames.

    Returns:
        Text ``(B, T)``, that of the next frame at each, and codes ``(B, T, K)``.
    """
    text, codes = [], []
    for frame in user.unbind(1):
        state.text, state.codes = chooser.choose(*model.step(frame, state))
        text.append(state.text)
        codes.append(state.codes)
    return torch.stack(text, 1), torch.stack(codes, 1)
