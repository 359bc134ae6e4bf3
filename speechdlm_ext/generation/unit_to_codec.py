"""Decoding of unit-to-codec models: while a unit lasts, a codec token or the end of the unit follows, nothing else.

A step is one token of every row. Rows whose prompts are longer than the shortest are given the rest of them step by
step, rows at their end leave the batch. A row's samples depend on its own seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.data.unit_codec_dictionary import EOP, UnitCodecDictionary
from speechdlm_ext.errors import InputError

# Steps between two looks at whether rows have ended, each of which waits for the device.
LOOK = 16
# Positions by which the cache has room at first; it doubles where rows become longer.
ROOM = 512


@dataclass(frozen=True)
class CodecOptions:
    """How codec tokens are decoded; the defaults are the published ones.

    Attributes:
        max_tokens: of each row, ends of units and units that are given included.
        max_codec_tokens_per_phone: of each unit; 10 are 250 ms at 40 Hz.
        temperature: divides the logits; 0 is greedy.
        top_p: sample from the smallest set of tokens before which there is at most this probability; 0 is greedy.
        published_limits: as the public code decodes: two more codec tokens for the first unit and one more for each
            other, and tokens of other kinds may be sampled, which count and are dropped.
        chunk_size: positions of a prompt that are read at a time; ``None`` for all. It changes memory alone.

    Raises:
        InputError: a value out of range.
    """

    max_tokens: int = 1000
    max_codec_tokens_per_phone: int = 10
    temperature: float = 1.0
    top_p: float = 0.8
    published_limits: bool = False
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 0:
            raise InputError(f"--max-tokens {self.max_tokens}: 0 or more is expected")
        if self.max_codec_tokens_per_phone < 0:
            raise InputError(f"--max-codec-tokens-per-phone {self.max_codec_tokens_per_phone}: 0 or more is expected")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"--temperature {self.temperature}: 0 or more is expected")
        if not 0 <= self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p}: 0 to 1 is expected")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise InputError(f"chunk_size {self.chunk_size}: 1 or more is expected")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.top_p == 0 or self.temperature == 0


@dataclass
class CodecPrompt:
    """What a row is made of.

    Attributes:
        units: ids of deduplicated units, those of the voice first.
        voice: ids of what the first ``spoken`` units sounded like: each unit but the first after its predecessor's EOP,
            as in a training sequence; empty without a voice.
        spoken: how many units the voice has.
        counts: how many codec tokens each unit after the voice gets, if that is known, whatever the options' limit is.
        max_tokens: of this row; ``None`` for the options'.
    """

    units: Sequence[int]
    voice: Sequence[int] = ()
    spoken: int = 0
    counts: Sequence[int] | None = None
    max_tokens: int | None = None

    def ids(self, dictionary: UnitCodecDictionary) -> list[int]:
        """What the model reads before it predicts."""
        return [*self.units, dictionary.bos(), *self.voice, self.units[self.spoken]]


@dataclass
class CodecHypothesis:
    """What became of a row.

    Attributes:
        ids: all tokens after the prompt, to the last EOP.
        codec: the codec tokens among them.
        codec_per_unit: the same for each unit.
        finished: whether the last unit ended before ``max_tokens``.
    """

    ids: list[int] = field(default_factory=list)
    codec: list[int] = field(default_factory=list)
    codec_per_unit: list[list[int]] = field(default_factory=list)
    finished: bool = True


@torch.no_grad()
def generate_codec(
    decoder: Any,
    dictionary: UnitCodecDictionary,
    prompts: Sequence[CodecPrompt],
    options: CodecOptions,
    uniforms: Sequence[Callable[[int], np.ndarray]],
    progress: Callable[[int], object] = lambda tokens: None,
) -> list[CodecHypothesis]:
    """Decode rows together.

    Args:
        decoder: of a unit-to-codec model in evaluation mode.
        prompts: rows; one without units has an empty answer.
        uniforms: for each row, what draws its next n numbers in [0, 1).
        progress: called with the number of steps done since the last call.

    Raises:
        InputError: the model's output is not a number.
    """
    answers = [CodecHypothesis() for _ in prompts]
    rows = [i for i, prompt in enumerate(prompts) if len(prompt.units) > prompt.spoken]
    for i in rows:
        answers[i].finished = False
    rows = [i for i in rows if _most(prompts[i], options) > 0]
    if not rows:
        return answers
    state = _State(decoder, dictionary, [prompts[i] for i in rows], options, [uniforms[i] for i in rows])
    for i, ids in zip(rows, state.run(progress), strict=True):
        answers[i] = _hypothesis(ids, prompts[i], dictionary)
    return answers


def _hypothesis(ids: list[int], prompt: CodecPrompt, dictionary: UnitCodecDictionary) -> CodecHypothesis:
    """The tokens of a row, cut after its last EOP where it has one for each unit."""
    end = dictionary.token_to_id[EOP]
    ends = [position for position, i in enumerate(ids) if i == end]
    asked = len(prompt.units) - prompt.spoken
    finished = len(ends) >= asked
    ids = ids[: ends[asked - 1] + 1] if finished else ids
    borders = [0, *(position + 1 for position in ends[:asked]), len(ids)]
    per_unit = [dictionary.codec_tokens(ids[a:b]) for a, b in zip(borders, borders[1:], strict=False)]
    per_unit = per_unit[: len(ends[:asked]) + (not finished)]
    return CodecHypothesis(ids, dictionary.codec_tokens(ids), per_unit, finished)


class _State:
    """Rows in the making, those at their end taken out; tensors are on the model's device, one entry for each row."""

    def __init__(
        self,
        decoder: Any,
        dictionary: UnitCodecDictionary,
        prompts: Sequence[CodecPrompt],
        options: CodecOptions,
        uniforms: Sequence[Callable[[int], np.ndarray]],
    ) -> None:
        self.decoder, self.options, self.uniforms = decoder, options, list(uniforms)
        device = decoder.output.weight.device
        read = [prompt.ids(dictionary) for prompt in prompts]
        follow = [[*prompt.units[prompt.spoken + 1 :], -1] for prompt in prompts]
        self.shortest = min(map(len, read))
        self.most = [_most(prompt, options) for prompt in prompts]
        self.steps = max(len(ids) + most for ids, most in zip(read, self.most, strict=True)) - self.shortest
        self.read = _padded(read, device)
        self.follow = _padded(follow, device)
        self.late = [len(ids) - self.shortest for ids in read]  # steps in which a row is still given its prompt
        self.start = torch.tensor(self.late, device=device)
        self.stop = self.start + torch.tensor(self.most, device=device)
        usual = options.max_codec_tokens_per_phone
        limits = [prompt.counts or [usual] * (len(prompt.units) - prompt.spoken) for prompt in prompts]
        self.limit = _padded(limits, device)  # codec tokens of each unit; exactly so many where `exact`
        self.exact = torch.tensor([prompt.counts is not None for prompt in prompts], device=device).unsqueeze(1)
        self.unit = torch.zeros_like(self.start)
        self.tokens = torch.zeros_like(self.start)  # of the unit so far
        self.next = torch.full_like(self.start, -1)  # a unit that is given next, or -1
        self.done = torch.zeros_like(self.start, dtype=torch.bool)
        self.end = dictionary.token_to_id[EOP]
        self.other = torch.ones(len(dictionary), dtype=torch.bool, device=device)
        self.other[dictionary.codec_ids.to(device)] = False
        self.other[self.end] = False
        self.ending = torch.arange(len(dictionary), device=device) == self.end
        self.rows = list(range(len(prompts)))
        self.made: list[list[int]] = [[] for _ in prompts]

    def run(self, progress: Callable[[int], object]) -> list[list[int]]:
        """The tokens of each row after its prompt, at least to its end."""
        room = self.shortest + min(self.steps, ROOM)
        cache = self.decoder.make_cache(room)
        tokens = self.read[:, : self.shortest]
        first = self.options.chunk_size or self.shortest
        while tokens.size(1) > first:
            self.decoder(tokens[:, :first].unsqueeze(-1), cache=cache.extend(first))
            tokens = tokens[:, first:]
        columns: list[Tensor] = []
        drawn = torch.empty(0)
        for step in range(self.steps):
            if step % LOOK == 0 and not self.options.greedy:
                drawn = self._draw(step)
            if self.shortest + step > cache.capacity:
                cache.grow(min(2 * cache.capacity, self.shortest + self.steps))
            (found, *_), _ = self.decoder(tokens.unsqueeze(-1), cache=cache.extend(tokens.size(1)))
            chosen = self._choose(found.units[:, -1, 0].float(), drawn[step % LOOK] if len(drawn) else None)
            columns.append(self._advance(step, chosen))
            tokens = columns[-1].unsqueeze(1)
            if step % LOOK == LOOK - 1 or step == self.steps - 1:
                kept = self._collect(columns)
                columns = []
                progress(LOOK)
                if kept is not None:
                    if not len(kept):
                        break
                    cache.select(kept)
                    tokens = tokens[kept]
        return [ids[a : a + most] for ids, a, most in zip(self.made, self.late, self.most, strict=True)]

    def _draw(self, step: int) -> Tensor:
        """Random numbers for the next steps ``(LOOK, B)``; a row's first is for its own first step."""
        numbers = np.zeros((LOOK, len(self.rows)))
        for column, (row, draw) in enumerate(zip(self.rows, self.uniforms, strict=True)):
            waiting = min(max(self.late[row] - step, 0), LOOK)
            numbers[waiting:, column] = draw(LOOK - waiting)
        return torch.from_numpy(numbers).to(self.read.device, torch.float32)

    def _choose(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """The next token of each row where none is given: ``(B, V)`` to ``(B,)``."""
        options = self.options
        limit = self.limit.gather(1, self.unit.clamp_max(self.limit.size(1) - 1).unsqueeze(1))
        barred = self.other.expand_as(logits)
        if options.published_limits:
            limit += torch.where(self.exact, 0, 1 + (self.unit == 0).long().unsqueeze(1))
            barred = barred & self.exact
        full = (self.tokens.unsqueeze(1) >= limit).squeeze(1)
        logits = logits.masked_fill(barred | (self.exact & self.ending), -torch.inf)
        if options.greedy or uniform is None:
            chosen = logits.argmax(-1)
        else:
            ordered, order = (logits / options.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
            ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered > options.top_p, 0.0)
            mass = ordered.cumsum(-1)
            place = (mass <= uniform.unsqueeze(1) * mass[:, -1:]).sum(-1, keepdim=True)
            last = (ordered > 0).sum(-1, keepdim=True) - 1
            chosen = order.gather(-1, torch.minimum(place, last)).squeeze(-1)
        return torch.where(full, self.end, chosen)

    def _advance(self, step: int, chosen: Tensor) -> Tensor:
        """The tokens of this step, and the state after them."""
        reading = self.start > step
        given = self.read[:, min(self.shortest + step, self.read.size(1) - 1)]
        forced = self.next >= 0
        token = torch.where(reading, given, torch.where(forced, self.next, chosen))
        ended = ~reading & ~forced & (token == self.end)
        following = self.follow.gather(1, self.unit.clamp_max(self.follow.size(1) - 1).unsqueeze(1)).squeeze(1)
        self.next = torch.where(ended, following, -1)
        self.done |= (ended & (following < 0)) | (self.stop <= step + 1)
        self.unit += ended
        self.tokens = torch.where(reading | forced | ended, 0, self.tokens + 1)
        return token

    def _collect(self, columns: list[Tensor]) -> Tensor | None:
        """Fetch the tokens of the last steps; which rows are kept, if not all."""
        fetched = torch.cat([torch.stack(columns, 1), self.done.unsqueeze(1)], 1).cpu()
        for row, (*tokens, _) in zip(self.rows, fetched.tolist(), strict=True):
            self.made[row] += tokens
        return None if not fetched[:, -1].any() else self._keep(fetched[:, -1] == 0)

    def _keep(self, going: Tensor) -> Tensor:
        kept = going.nonzero().squeeze(1)
        self.rows = [self.rows[i] for i in kept.tolist()]
        self.uniforms = [self.uniforms[i] for i in kept.tolist()]
        kept = kept.to(self.read.device)
        for name in ("read", "follow", "start", "stop", "limit", "exact", "unit", "tokens", "next", "done"):
            setattr(self, name, getattr(self, name)[kept])
        return kept


def _most(prompt: CodecPrompt, options: CodecOptions) -> int:
    return options.max_tokens if prompt.max_tokens is None else prompt.max_tokens


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    size = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (size - len(row))] for row in rows], device=device)
