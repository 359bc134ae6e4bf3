"""The log-likelihood of given dialogues, frame by frame, as validation counts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.data.dialogue_dataset import DialogueDataset
from speechdlm_ext.data.unit_stream import UnitStream
from speechdlm_ext.errors import InputError
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask

BATCH = 12288  # frames that go through the model together, padding included


@dataclass(frozen=True, eq=False)
class DialogueScore:
    """What a model thinks of a dialogue of T frames, for the C channels that were scored.

    Attributes:
        channels: their names.
        log_probabilities: of every unit, in nats, ``(T, C)``, given the frames before it of all channels.
        durations: run lengths in frames at edges, 0 elsewhere, ``(T, C)``; counted to ``--max-target-durations``.
        predicted_durations: what the model says at edges, ``(T, C)``; NaN elsewhere, without duration prediction, and,
            with delayed durations, for a run that starts at the last frame of a block.
    """

    channels: tuple[str, ...]
    log_probabilities: Tensor
    durations: Tensor
    predicted_durations: Tensor

    @property
    def edges(self) -> Tensor:
        """Where runs start: ``(T, C)`` bool."""
        return self.durations > 0

    @property
    def duration_errors(self) -> Tensor:
        """Absolute errors in frames, ``(T, C)``; NaN where no duration was predicted."""
        return (self.predicted_durations - self.durations).abs()

    @property
    def log_likelihood(self) -> Tensor:
        """Sum over frames, in nats, ``(C,)``; :attr:`total` is the dialogue's."""
        return self.log_probabilities.double().sum(0)

    @property
    def edge_log_likelihood(self) -> Tensor:
        """Sum over edges, in nats, ``(C,)``: what the edge loss counts."""
        return self.log_probabilities.double().where(self.edges, 0.0).sum(0)

    @property
    def total(self) -> float:
        """Log-likelihood of all scored channels together, in nats."""
        return float(self.log_likelihood.sum())

    @property
    def bits_per_unit(self) -> Tensor:
        """``general_token_loss`` of validation, ``(C,)``."""
        return -self.log_likelihood / len(self.log_probabilities) / math.log(2)

    @property
    def bits_per_edge(self) -> Tensor:
        """``edge_token_loss`` of validation, ``(C,)``."""
        return -self.edge_log_likelihood / self.edges.sum(0) / math.log(2)

    @property
    def duration_error(self) -> Tensor:
        """``edge_duration_loss`` of validation: mean error in frames, ``(C,)``; NaN without a predicted duration."""
        return self.duration_errors.double().nanmean(0)

    def without(self, channel: int) -> DialogueScore:
        """The same of all channels but one."""
        kept = [c for c in range(len(self.channels)) if c != channel]
        return replace(
            self,
            channels=tuple(self.channels[c] for c in kept),
            log_probabilities=self.log_probabilities[:, kept],
            durations=self.durations[:, kept],
            predicted_durations=self.predicted_durations[:, kept],
        )


class _Units(UnitStream):
    """One channel of a dialogue in memory, as a stream of one line."""

    def __init__(self, units: np.ndarray) -> None:
        self.path = "the dialogue"
        self.sizes = self.ends = np.array([len(units)])
        self._units = units


@torch.no_grad()
def score_dialogues(
    models: Sequence[Any],
    task: SpeechDLMTask,
    dialogues: Sequence[Tensor],
    progress: Callable[[int], object] = lambda frames: None,
) -> list[DialogueScore]:
    """Score dialogues with the mean of the models' probabilities, and of the durations that they say.

    Each dialogue is cut into blocks of ``--tokens-per-sample`` frames, as validation cuts a corpus: the first frame of
    a block sees the frame before it, and no block sees what was said in the block before.

    Args:
        models: models in evaluation mode.
        dialogues: ids ``(T, C)``, one frame or more each.
        progress: called with the number of frames done since the last call.

    Returns:
        A score for each dialogue, of all channels, on the CPU.

    Raises:
        InputError: models that disagree, or whose output is not a number.
    """
    delayed = {model.decoder.delayed_durations for model in models}
    if len(delayed) > 1:
        raise InputError("the models of an ensemble must agree in --delayed-duration-target")
    window = min(task.cfg.tokens_per_sample, *(model.max_decoder_positions() for model in models))
    datasets = [_blocks(task, units, window) for units in dialogues]
    scores = [_empty(task.channels, len(units)) for units in dialogues]
    blocks = [(int(size), i, k) for i, dataset in enumerate(datasets) for k, size in enumerate(dataset.sizes)]
    device = next(models[0].parameters()).device
    for batch in _batches(sorted(blocks)):
        sample = datasets[0].collater([datasets[i][k] for _, i, k in batch])
        target = sample["target"]
        lprobs, said = _predict(models, sample["net_input"]["src_tokens"].to(device), target.to(device))
        for row, (size, i, k) in enumerate(batch):
            start = int(datasets[i].blocks[k][0])
            inside = slice(start, start + size)
            durations = sample["durations"][row, :size]
            scores[i].log_probabilities[inside] = lprobs[row, :size]
            scores[i].durations[inside] = durations
            if said is not None:
                of_frame = said[row, :size]
                if delayed == {True}:  # said one frame late, and not at all of a run that starts at the last frame
                    of_frame = F.pad(of_frame[1:], (0, 0, 0, 1), value=math.nan)
                scores[i].predicted_durations[inside] = of_frame.where(durations > 0, math.nan)
            progress(size)
    return scores


def _blocks(task: SpeechDLMTask, units: Tensor, window: int) -> DialogueDataset:
    return DialogueDataset(
        [_Units(column.numpy()) for column in units.t().contiguous()],
        task.dictionary,
        window,
        max_duration=task.cfg.max_target_durations or 1,
        start_symbol=task.dictionary.bos() if task.cfg.add_bos_token else task.dictionary.eos(),
    )


def _empty(channels: Sequence[str], frames: int) -> DialogueScore:
    nothing = torch.full((frames, len(channels)), math.nan)
    return DialogueScore(tuple(channels), nothing, torch.zeros_like(nothing, dtype=torch.long), nothing.clone())


def _batches(blocks: Sequence[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Blocks in order of length, as many at a time as stay within :data:`BATCH` frames when padded."""
    batch: list[tuple[int, int, int]] = []
    for block in blocks:
        if batch and block[0] * (len(batch) + 1) > BATCH:
            yield batch
            batch = []
        batch.append(block)
    if batch:
        yield batch


def _predict(models: Sequence[Any], source: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of ``target`` ``(B, T, C)``, and durations that were said ``(B, T, C)``, in fp32 on the CPU."""
    lprobs, durations = [], []
    for model in models:
        (own, *_), _ = model(source)
        lprobs.append(F.log_softmax(own.units.float(), -1).gather(-1, target.unsqueeze(-1)).squeeze(-1))
        if own.durations is not None:
            durations.append(own.durations.float())
    mean = torch.logsumexp(torch.stack(lprobs), 0) - math.log(len(lprobs))
    said = torch.stack(durations).mean(0) if durations else None
    if bool(torch.isnan(mean).any()) or (said is not None and bool(torch.isnan(said).any())):
        raise InputError(
            "the model's output is not a number: its weights are broken, or the precision is too low (try fp32)"
        )
    return mean.cpu(), None if said is None else said.cpu()
