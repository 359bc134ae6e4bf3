"""Duplex models in a conversation that is still going on: the user's sound in, the agent's text and sound out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.duplex import DuplexOptions, FrameChooser, decode_frames
from speechdlm_ext.modules.duplex_frames import unstack_codes, without_control_codes

CONTEXT_SECONDS = 120.0
_TEXT_CONTEXT = 16  # ids before new ones that their spelling may depend on


@dataclass(frozen=True)
class StreamStep:
    """What the agent says in the frames that a chunk completes.

    Attributes:
        text: of each row, "" where nothing is said; joined, it is that of the whole.
        tokens: of the text channel ``(B, t)``, with pads, BOS and EOS; t may be 0.
        codes: of the sound ``(B, t, K)``, those of control included.
        audio: ``(B, n)`` at the codec's sample rate, as far as later codes cannot change it; n may be 0.
    """

    text: list[str]
    tokens: Tensor
    codes: Tensor
    audio: Tensor


class DuplexStream:
    """A conversation; time and memory of a step do not depend on how long it has lasted.

    ::

        stream = model.streaming()
        for chunk in microphone:  # (1, n) at 16 kHz, any n
            said = stream.step(chunk)  # .text, .codes, .audio
        rest = stream.finish()

    Args:
        model: a duplex model of the hub, with a causal perception.
        batch: rows that go on together.
        options: of decoding.
        context_seconds: how much of the past is remembered; what is older is forgotten.
        force_turn_taking: how many frames in a row the user has to speak, by ``is_speech``, for the agent's turn to be
            ended whatever the model predicts; 0, the default, leaves it to the model.
        is_speech: of the user's chunk ``(B, n)``, whether each row speaks, bool ``(B,)``.

    Raises:
        InputError: the perception needs the whole recording, or the context is too short.
    """

    def __init__(
        self,
        model: Any,
        batch: int = 1,
        options: DuplexOptions | None = None,
        context_seconds: float = CONTEXT_SECONDS,
        force_turn_taking: int = 0,
        is_speech: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.core, self.parts, self.rows = model.model, model.parts, batch
        self.perception = self.core.perception.stream()
        frames = round(context_seconds * self.core.perception.frame_rate)
        if frames < 2:
            raise InputError(f"a context of {context_seconds:g} s is less than two frames")
        self.state = self.core.make_state(batch, frames, rolling=True)
        self.chooser = FrameChooser(options or DuplexOptions(), range(batch))
        self.codec = self.parts.codec.streaming()
        self.first: Tensor | None = None
        self.ids: list[list[int]] = [[] for _ in range(batch)]
        if force_turn_taking and is_speech is None:
            raise InputError("force_turn_taking needs is_speech, which says whether the user speaks")
        self.force, self.is_speech = force_turn_taking, is_speech
        self.spoken = torch.zeros(batch, dtype=torch.long)

    def step(self, chunk: Tensor) -> StreamStep:
        """Read the user's next sound, ``(B, n)`` or ``(n,)`` at the perception's sample rate."""
        rows = chunk.unsqueeze(0) if chunk.dim() == 1 else chunk
        if rows.dim() != 2 or len(rows) != self.rows or not rows.is_floating_point():
            raise InputError(f"sound of shape {tuple(chunk.shape)} and {chunk.dtype}: ({self.rows}, n) is expected")
        if rows.device.type == "cpu" and not bool(torch.isfinite(rows).all()):
            raise InputError("sound with a sample that is not a finite number")
        return self._advance(rows, last=False)

    def finish(self) -> StreamStep:
        """End the conversation: what was held back because later sound could have changed it."""
        return self._advance(torch.zeros(self.rows, 0, device=self.core.device), last=True)

    @torch.no_grad()
    def _advance(self, rows: Tensor, last: bool) -> StreamStep:
        core, ids = self.core, self.core.ids
        user = self.perception.step(rows.to(core.device), last)
        if user.size(1):
            tokens, codes = decode_frames(core, user, self.state, self.chooser)
        else:
            tokens = torch.zeros(self.rows, 0, dtype=torch.long)
            codes = torch.zeros(self.rows, 0, core.codebooks, dtype=torch.long)
        if self.force and self.is_speech is not None and rows.size(1):
            self._take_turn(rows, tokens.size(1))
        sound = None
        if codes.size(1):
            self.first = codes[:, 0] if self.first is None else self.first
            known = without_control_codes(codes, self.first, ids)
            sound = unstack_codes(known, self.parts.per_frame).transpose(1, 2)
        return StreamStep(self._spell(tokens.tolist()), tokens, codes, self.codec.decode(sound, last))

    def _take_turn(self, rows: Tensor, frames: int) -> None:
        """End the agent's turn where the user has spoken for long enough."""
        assert self.is_speech is not None
        self.spoken = torch.where(self.is_speech(rows).cpu(), self.spoken + frames, 0)
        taken = (self.spoken >= self.force).to(self.state.text.device)
        self.state.text = torch.where(taken, self.core.ids.text_eos, self.state.text)

    def _spell(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """The text that new ids add to what was said before."""
        text = []
        tokenizer = self.parts.tokenizer
        for row, new in enumerate(tokens):
            before = self.ids[row]
            now = [*before, *self.parts.words(new)]
            known = tokenizer.ids_to_text(before) if before else ""
            text.append(tokenizer.ids_to_text(now)[len(known) :] if len(now) > len(before) else "")
            self.ids[row] = now[-_TEXT_CONTEXT:]
        return text
