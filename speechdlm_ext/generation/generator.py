"""Continuing sequences of units: one batched loop for sampling and beam search, for one channel and for several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.data.channel_dictionary import ChannelDictionary
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.durations import DurationCounter
from speechdlm_ext.generation.filters import filtered
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.generation.search import Seed, beam_step, sample, uniform_numbers
from speechdlm_ext.generation.stopping import StoppingCriteria
from speechdlm_ext.generation.windows import ModelWindow
from speechdlm_ext.modules.padding import pad_right

# Frames between two looks at the device: whether all rows have ended, and whether the outputs are numbers.
CHECKED_EVERY = 8


@dataclass
class Hypothesis:
    """A continued dialogue, or a continued sequence of one channel.

    Attributes:
        units: prompt and continuation, ``(T, C)``.
        score: log-probability over all channels, the final ``</s>`` counted, divided by the length penalty.
        positional_scores: log-probability of every unit and of the final ``</s>``, ``(T + 1, C)``.
        durations: how long each unit lasts in frames, ``(T, C)``; ``None`` where a unit stands for one frame.
        ended: whether ``</s>`` was emitted, and not a greatest length reached.
    """

    units: Tensor
    score: float
    positional_scores: Tensor
    durations: Tensor | None = None
    ended: bool = False


class DialogueGenerator:
    """Continues prompts with an ensemble of SpeechDLMs, or of unit language models (the case of one channel).

    A prompt's ``<pad>`` or ``<unk>`` frames are free: the model fills them in (one-channel-conditioned generation
    leaves a whole channel free). Special symbols are never emitted, but for the ``</s>`` that ends a sequence.

    A SpeechDLM's durations say how often a unit is repeated. Those of a unit language model, whose units are runs, are
    carried beside the units.

    Args:
        models: models in evaluation mode.
        dictionary: the channels' dictionaries, or the vocabulary of unit language models.
        options: see :class:`DecodingOptions`.

    Raises:
        InputError: models that cannot decode together, or that cannot end as the options say.
    """

    def __init__(
        self, models: Sequence[Any], dictionary: ChannelDictionary | UnitDictionary, options: DecodingOptions
    ) -> None:
        self.models, self.dictionary, self.options = list(models), dictionary, options
        kinds = {
            (m.decoder.delayed_durations, m.decoder.start_symbol, m.decoder.channels, m.decoder.durations_repeat)
            for m in self.models
        }
        if len(kinds) > 1:
            raise InputError(
                "the models of an ensemble must agree in --delayed-duration-target, --add-bos-token and channels"
            )
        ((self.delayed, self.start_symbol, channels, self.repeats),) = kinds
        if options.stop_at_end and channels > 1:
            raise InputError(f"a dialogue of {channels} channels has no end symbol to stop at: omit stop_at_end")
        self.device = next(models[0].parameters()).device
        self.banned = ~dictionary.emittable().to(self.device)  # (C, V)
        self.banned_but_eos = self.banned.clone()
        self.banned_but_eos[:, dictionary.eos()] = False
        self.temperature = torch.tensor(options.temperatures(dictionary.channels), device=self.device)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Tensor],
        seeds: Sequence[Seed],
        progress: Callable[[int], None] | None = None,
        durations: Sequence[Tensor] | None = None,
    ) -> list[list[Hypothesis]]:
        """Continue each prompt.

        Args:
            prompts: ``(T_i, C)`` unit ids, not necessarily equally long.
            seeds: one for each prompt, of :func:`.row_seed`: a sample depends on its prompt and its seed, not on the
                rest of the batch.
            progress: called with the number of frames done, at each frame.
            durations: of each prompt's units in frames, ``(T_i, C)``, where they are known; 0 and missing ones are
                predicted. For models whose units are runs.

        Returns:
            For each prompt ``options.beam`` hypotheses, the most probable first.

        Raises:
            InputError: a prompt longer than the length asked for, or a model whose output is not a number.
        """
        limits = [self.options.limit(len(prompt)) for prompt in prompts]
        results: list[list[Hypothesis]] = [[] for _ in prompts]
        self.decoders = [model.decoder for model in self.models]
        windows = [model.max_decoder_positions() for model in self.models]
        self.positions = min([*windows, *([] if self.options.window is None else [self.options.window])])
        for limit in sorted(set(limits)):
            members = [i for i, own in enumerate(limits) if own == limit]
            given = None if durations is None else [durations[i] for i in members]
            batch = _Batch(self, [prompts[i] for i in members], [seeds[i] for i in members], limit, given)
            for i, hypotheses in zip(members, batch.run(progress), strict=True):
                results[i] = hypotheses
        return results


class _Batch:
    """Prompts that are continued to the same length, and the state of doing so.

    Rows of the state are prompts, then prompts × beam once hypotheses differ.
    """

    def __init__(
        self,
        generator: DialogueGenerator,
        prompts: list[Tensor],
        seeds: Sequence[Seed],
        limit: int,
        durations: list[Tensor] | None = None,
    ) -> None:
        self.generator, self.options, self.limit = generator, generator.options, limit
        self.size, self.channels = len(prompts), len(generator.dictionary.channels)
        device, pad, unk = generator.device, generator.dictionary.pad(), generator.dictionary.unk()
        rows = pad_right([prompt.cpu() for prompt in prompts], pad)
        free = rows.new_full((self.size, max(limit - rows.size(1), 0), self.channels), pad)
        prompt = torch.cat([rows, free], 1)[:, :limit]
        forced = prompt.ne(pad) & prompt.ne(unk)  # (B, limit, C)
        self.any_forced = forced.any(-1).any(0).tolist()  # of each frame
        self.known = int(forced.all(-1).all(0).int().cumprod(0).sum())  # frames that all prompts force
        self.prompt, self.forced = prompt.to(device), forced.to(device)
        start = self.prompt.new_full((self.size, 1, self.channels), generator.start_symbol)
        self.units = torch.cat([start, self.prompt], 1)  # (rows, 1 + limit, C)
        self.scores = torch.zeros(self.size, limit + 1, self.channels, device=device)
        self.totals = torch.zeros(self.size, self.channels, device=device)
        self.window = ModelWindow(
            generator.decoders, generator.positions, limit + 1, self.options.slide, self.options.compile
        )
        self.counter = DurationCounter(
            self.size, self.channels, generator.delayed, self.options.duration_temperature, device
        )
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        given = None if durations is None else pad_right(durations, 0).to(device)
        self.stopping = StoppingCriteria(lengths, limit, self.channels, self.options, given)
        self.uniform: Tensor | None = None
        if self.options.sampling:  # one row for each hypothesis
            numbers = uniform_numbers(list(seeds), self.options.beam, limit, self.channels)
            self.uniform = numbers.flatten(0, 1).to(device)
        self.broken = torch.zeros((), dtype=torch.bool, device=device)

    def run(self, progress: Callable[[int], None] | None) -> list[list[Hypothesis]]:
        """Decode frame by frame, after one pass over the frames that every prompt forces."""
        lprobs, repeat = self._read_prompt()
        self._widen()
        lprobs = lprobs.repeat_interleave(self.options.beam, 0)
        repeat = None if repeat is None else repeat.repeat_interleave(self.options.beam, 0)
        for frame in range(self.known, self.limit):
            if (frame - self.known) % CHECKED_EVERY == 0 and self._finished():
                break
            step = self._constrain(lprobs, repeat, frame)
            if self.uniform is not None:
                self._sample(step, self.uniform[:, frame], frame)
            else:
                self._extend_beam(step, frame)
            if progress is not None:
                progress(frame + 1)
            lprobs, durations = self._feed(self.units[:, frame + 1 : frame + 2])
            lprobs, durations = lprobs[:, -1], None if durations is None else durations[:, -1]
            repeat = None
            if durations is not None and self.generator.repeats:
                repeat = self.counter.advance(durations, self.units[:, frame + 1].eq(self.units[:, frame]))
            elif durations is not None:
                self.stopping.add_durations(durations.unsqueeze(1), frame + 1)
            self._stop_full(lprobs, frame + 1)
        self._finished()
        return self._hypotheses()

    def _read_prompt(self) -> tuple[Tensor, Tensor | None]:
        """Read the frames that all prompts force; log-probabilities and repetition at the first that is open."""
        known = self.known
        lprobs, durations = self._feed(self.units[:, : known + 1])
        taken = lprobs[:, :known].gather(-1, self.units[:, 1 : known + 1].unsqueeze(-1)).squeeze(-1)
        self.scores[:, :known] = taken
        self.totals = taken.sum(1)
        repeat = None
        if durations is not None and self.generator.repeats:
            repeated = self.units[:, : known + 1].eq(self.units[:, : known + 1].roll(1, 1))
            repeated[:, 0] = True
            repeat = self.counter.read_prompt(durations, repeated)
        elif durations is not None and known:
            self.stopping.add_durations(durations[:, 1:], known)
        self._stop_full(lprobs[:, -1], known)
        return lprobs[:, -1], repeat

    def _feed(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        lprobs, durations = self.window.feed(units, self.generator.temperature)
        self.broken |= lprobs.isnan().any()
        if durations is not None:
            self.broken |= durations.isnan().any()
        return lprobs, durations

    def _finished(self) -> bool:
        """Whether nothing is left to continue; raises :class:`InputError` for outputs that are not numbers."""
        broken, ended = torch.stack([self.broken, self.stopping.ended.all()]).tolist()
        if broken:
            raise InputError(
                "the model's output is not a number: its weights are broken, or the precision is too low (try fp32)"
            )
        return bool(ended)

    def _stop_full(self, lprobs: Tensor, length: int) -> None:
        """After ``length`` frames, end the sequences that are long enough."""
        full = self.stopping.stop_full(length)
        if full is not None:
            final = lprobs[..., self.generator.dictionary.eos()].where(full.unsqueeze(-1), 0.0)
            self.scores[:, length] += final
            self.totals = self.totals + final

    def _constrain(self, lprobs: Tensor, repeat: Tensor | None, frame: int) -> Tensor:
        """Log-probabilities ``(rows, C, V)`` of what may follow: units, or the one unit that must."""
        may_end = self.options.stop_at_end and frame >= self.options.min_len
        banned = self.generator.banned_but_eos if may_end else self.generator.banned
        if repeat is not None or self.any_forced[frame]:
            lprobs = self._fix(lprobs, repeat, frame, banned)
        else:
            lprobs = lprobs.masked_fill(banned, -torch.inf)
        return self.stopping.force_eos(lprobs, self.generator.dictionary.eos())

    def _fix(self, lprobs: Tensor, repeat: Tensor | None, frame: int, banned: Tensor) -> Tensor:
        """The same where some prompts go on, or units are repeated."""
        beam = self.options.beam
        forced = self.forced[:, frame].repeat_interleave(beam, 0)
        only = torch.where(forced, self.prompt[:, frame].repeat_interleave(beam, 0), self.units[:, frame])
        fixed = forced if repeat is None or frame == 0 else forced | repeat
        others = torch.ones_like(lprobs, dtype=torch.bool).scatter(-1, only.unsqueeze(-1), False)
        return lprobs.masked_fill(torch.where(fixed.unsqueeze(-1), others, banned), -torch.inf)

    def _sample(self, lprobs: Tensor, uniform: Tensor, frame: int) -> None:
        units = sample(filtered(lprobs, self.options), uniform)
        self._append(units, lprobs.gather(-1, units.unsqueeze(-1)).squeeze(-1), frame)

    def _extend_beam(self, lprobs: Tensor, frame: int) -> None:
        beam = self.options.beam
        rows = lprobs.view(self.size, beam, *lprobs.shape[1:])
        totals = self.totals.view(self.size, beam, -1)
        parents, units, new_totals = beam_step(rows, totals, beam)
        parents = (parents + torch.arange(self.size, device=parents.device).unsqueeze(1) * beam).flatten()
        # Copying a cache is the longest part of a step on a CPU; on a GPU, asking whether it is needed would be.
        if parents.device.type != "cpu" or not torch.equal(parents, torch.arange(len(parents))):
            self._select(parents)
        new_totals = new_totals.flatten(0, 1)
        self._append(units.flatten(0, 1), new_totals - self.totals, frame)
        self.totals = new_totals

    def _append(self, units: Tensor, scores: Tensor, frame: int) -> None:
        self.units[:, frame + 1] = units
        self.scores[:, frame] += scores  # 0 until now, but for sequences that have ended, to which nothing is added
        if self.options.stop_at_end:
            own = self.forced[:, frame].repeat_interleave(self.options.beam, 0)
            self.stopping.end((units.eq(self.generator.dictionary.eos()) & ~own).all(-1), frame)
        if self.options.sampling:
            self.totals = self.totals + scores

    def _widen(self) -> None:
        """From one row a prompt to one a hypothesis."""
        beam = self.options.beam
        if beam > 1:
            self._select(torch.arange(self.size, device=self.units.device).repeat_interleave(beam))
        if not self.options.sampling:
            # Hypotheses of a prompt are still the same one, which counts once.
            self.totals.view(self.size, beam, -1)[:, 1:] = -torch.inf

    def _select(self, rows: Tensor) -> None:
        self.units, self.scores, self.totals = self.units[rows], self.scores[rows], self.totals[rows]
        self.counter.select(rows)
        self.stopping.select(rows)
        self.window.select(rows)

    def _hypotheses(self) -> list[list[Hypothesis]]:
        stopping, units, scores = self.stopping, self.units[:, 1:].cpu(), self.scores.cpu()
        lengths, ended, totals = stopping.lengths.tolist(), stopping.by_symbol.tolist(), self.totals.sum(-1).tolist()
        durations = None if stopping.durations is None else stopping.durations.cpu()
        results: list[list[Hypothesis]] = [[] for _ in range(self.size)]
        for i, (length, total) in enumerate(zip(lengths, totals, strict=True)):
            penalty = (length + 1) ** self.options.len_penalty if self.options.normalize_scores else 1.0
            # A beam wider than the choices that were open holds hypotheses of no probability.
            if math.isfinite(total):
                lasting = None if durations is None else durations[i, :length]
                found = Hypothesis(units[i, :length], total / penalty, scores[i, : length + 1], lasting, ended[i])
                results[i // self.options.beam].append(found)
        return [sorted(own, key=lambda hypothesis: -hypothesis.score) for own in results]
