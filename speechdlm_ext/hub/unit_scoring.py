"""The log-likelihood of given sequences of units, many of like length at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError

# Positions that go through the model together, and on a CPU, whose caches are small.
BATCH, CPU_BATCH = 12288, 2048
PADDING = -1


@dataclass(frozen=True, eq=False)
class UnitScore:
    """The likelihood of a sequence of T units.

    Attributes:
        log_probabilities: of each unit given those before it, in nats, ``(T,)``; the first given BOS alone. Where EOS
            was scored, its log-probability is one more.
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
        """The same divided by what was scored: the units, and EOS where it was scored."""
        return self.total / len(self.log_probabilities)

    @property
    def bits_per_unit(self) -> float:
        """Mean surprise, in bits."""
        return -self.per_unit / math.log(2)


@torch.no_grad()
def score_units(
    models: Sequence[Any],
    sequences: Sequence[Tensor],
    bos: int,
    ending: bool = False,
    batch_units: int | None = None,
    progress: Callable[[int], object] = lambda units: None,
) -> list[UnitScore]:
    """Score sequences with the mean of the models' probabilities.

    Args:
        models: unit language models in evaluation mode.
        sequences: rows of the vocabulary ``(T,)``, one or more each.
        bos: the row before the first unit and after the last.
        ending: score EOS after the last unit as well.
        batch_units: positions that go through the model together, padding included (default: 12,288, on a CPU 2,048);
            a longer sequence goes alone.
        progress: called with the number of units done since the last call.

    Returns:
        A score for each sequence, on the CPU.

    Raises:
        InputError: models whose output is not a number.
    """
    scores: list[UnitScore | None] = [None] * len(sequences)
    device = next(models[0].parameters()).device
    if batch_units is None:
        batch_units = CPU_BATCH if device.type == "cpu" else BATCH
    lengths = [len(units) + ending for units in sequences]
    for longest, batch in _batches(lengths, batch_units):
        target = torch.full((len(batch), longest), PADDING)
        for row, i in zip(target, batch, strict=True):
            row[: len(sequences[i])] = sequences[i]
            if ending:
                row[len(sequences[i])] = bos
        real = target.ne(PADDING)
        source = F.pad(target[:, :-1], (1, 0), value=bos).masked_fill(~real, bos)
        net_input = {
            "src_tokens": source.to(device),
            "src_lengths": real.sum(1).to(device),
            "token_index": real.flatten().nonzero().squeeze(1).to(device),
        }
        found = _predict(models, net_input, target.to(device))
        for i, row in zip(batch, found, strict=True):
            scores[i] = UnitScore(row[: lengths[i]].clone(), ending)
            progress(len(sequences[i]))
    return [score for score in scores if score is not None]


def _batches(lengths: Sequence[int], positions: int) -> Iterator[tuple[int, list[int]]]:
    """Padded length, and numbers of the sequences, within ``positions`` together.

    A sequence is always padded to the same length, so that its score does not depend on what is scored beside it: sums
    are made in the same order. That is at most an eighth more than its own, or 8.
    """
    padded: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        step = max(8, 1 << max(length.bit_length() - 4, 0))
        padded.setdefault(-(-length // step) * step, []).append(i)
    for longest, members in sorted(padded.items()):
        rows = max(positions // longest, 1)
        for start in range(0, len(members), rows):
            yield longest, members[start : start + rows]


def _predict(models: Sequence[Any], net_input: dict[str, Tensor], target: Tensor) -> Tensor:
    """Log-probabilities of ``target`` ``(B, T)`` in fp32, on the CPU; 0 where there is padding."""
    lprobs = []
    for model in models:
        logits = model(**net_input)[0].float().flatten(0, 1)
        nll = F.cross_entropy(logits, target.flatten(), ignore_index=PADDING, reduction="none")
        lprobs.append(-nll.view_as(target))
    mean = lprobs[0] if len(lprobs) == 1 else torch.logsumexp(torch.stack(lprobs), 0) - math.log(len(lprobs))
    mean = mean.cpu()
    if bool(torch.isnan(mean).any()):
        raise InputError(
            "the model's output is not a number: its weights are broken, or the precision is too low (try fp32)"
        )
    return mean
