"""The log-likelihood of given sequences of units, many at a time without padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.processors import side_by_side

# Positions that go through the model together on a GPU.
BATCH = 12288


@dataclass(frozen=True, eq=False)
class UnitScore:
    """What a model thinks of a sequence of T units.

    Attributes:
        log_probabilities: of each unit given those before it, in nats, ``(T,)``; the first given the boundary alone.
            Where the ending was scored, its log-probability is one more.
        ending: whether it was.
    """

    log_probabilities: Tensor
    ending: bool = False

    @property
    def total(self) -> float:
        """The sequence's log-likelihood in nats, as DP-SLM defines it: Σ log p(u_t | BOS, u_1 … u_(t-1))."""
        return float(self.log_probabilities.double().sum())

    @property
    def per_unit(self) -> float:
        """The same divided by what was scored: the units, and the ending where it was scored."""
        return self.total / len(self.log_probabilities)

    @property
    def bits_per_unit(self) -> float:
        """Mean surprise, in bits."""
        return -self.per_unit / math.log(2)


@torch.no_grad()
def score_units(
    models: Sequence[Any],
    sequences: Sequence[Tensor],
    boundary: int,
    ending: bool = False,
    batch_units: int | None = None,
    progress: Callable[[int], object] = lambda units: None,
) -> list[UnitScore]:
    """Score sequences with the mean of the models' probabilities.

    Args:
        models: unit language models in evaluation mode.
        sequences: rows of the vocabulary ``(T,)``, one or more each.
        boundary: the row before the first unit and after the last.
        ending: score the boundary after the last unit as well.
        batch_units: positions that go through the model together (default: 12,288, or what the models say for
            a CPU); a longer sequence goes alone.
        progress: called with the number of units done since the last call.

    Returns:
        A score for each sequence, on the CPU.

    Raises:
        InputError: models whose output is not a number.
    """
    scores: list[UnitScore | None] = [None] * len(sequences)
    device = next(models[0].parameters()).device
    places = sum(map(len, sequences)) + len(sequences)
    predict = [model.decoder.scorer(places) for model in models]
    if batch_units is None:
        batch_units = min(model.decoder.scored_on_cpu for model in models) if device.type == "cpu" else BATCH
    edge = torch.tensor([boundary])

    def score(batch: list[int]) -> tuple[Tensor, ...]:
        targets = [torch.cat([sequences[i], edge]) if ending else sequences[i] for i in batch]
        source = torch.cat([torch.cat([edge, target[:-1]]) for target in targets]).to(device)
        lengths = [len(target) for target in targets]
        return _predict(predict, source, torch.cat(targets).to(device), lengths).split(lengths)

    batches = list(_batches(sequences, batch_units))[::-1]
    for batch, found in side_by_side(score, batches, device.type == "cpu"):
        for i, own in zip(batch, found, strict=True):
            scores[i] = UnitScore(own, ending)
            progress(len(sequences[i]))
    return [score for score in scores if score is not None]


def _batches(sequences: Sequence[Tensor], units: int) -> Iterator[list[int]]:
    """Numbers of sequences in order of length, equal ones side by side, within ``units`` together."""
    batch: list[int] = []
    total = 0
    for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        length = len(sequences[i]) + 1
        if batch and total + length > units:
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += length
    if batch:
        yield batch


def _predict(
    models: Sequence[Callable[[Tensor, Sequence[int]], Tensor]], source: Tensor, target: Tensor, lengths: list[int]
) -> Tensor:
    """Log-probabilities of ``target`` ``(N,)`` in fp32, on the CPU."""
    lprobs = []
    for model in models:
        lprobs.append(-F.cross_entropy(model(source, lengths).float(), target, reduction="none"))
    mean = lprobs[0] if len(lprobs) == 1 else torch.logsumexp(torch.stack(lprobs), 0) - math.log(len(lprobs))
    if bool(torch.isnan(mean).any()):
        raise InputError(
            "the model's output is not a number: its weights are broken, or the precision is too low (try fp32)"
        )
    return mean.cpu()
