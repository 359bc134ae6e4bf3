"""Choosing the next unit of every channel: random samples, reproducible for each row, and beam search."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError

# Of a run, of a row in its whole input, and of one of the row's samples.
Seed: TypeAlias = "tuple[int, int, int]"


def row_seed(seed: int, row: int = 0, sample: int = 0) -> Seed:
    """What the random numbers of a row depend on: not on its batch, its shard, or other rows.

    Args:
        seed: of the run, 0 to 2^64 - 1.
        row: number of the row in the whole input, whatever part of it is done here.
        sample: which continuation of the row.

    Raises:
        InputError: a seed out of range.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"--seed {seed}: a number from 0 to 2^64 - 1 is expected")
    return int(seed), int(row), int(sample)


def uniform_numbers(seeds: list[Seed], *shape: int) -> Tensor:
    """Random numbers in [0, 1), ``(rows, *shape)``, each row's from its own seed."""
    rows = [np.random.default_rng(np.random.SeedSequence(seed)).random(shape, np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def sample(lprobs: Tensor, uniform: Tensor) -> Tensor:
    """Sample units by inverting the distribution function at given uniform numbers.

    Args:
        lprobs: ``(…, V)``, not necessarily normalised; -inf is never sampled.
        uniform: ``(…)`` in [0, 1).

    Returns:
        Units ``(…)``.
    """
    cumulative = lprobs.double().softmax(-1).cumsum(-1)
    target = uniform.double().unsqueeze(-1) * cumulative[..., -1:]
    sampled = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    # Rounding may lead past the last unit of any probability.
    last = lprobs.size(-1) - 1 - lprobs.gt(-torch.inf).flip(-1).int().argmax(-1)
    return torch.minimum(sampled, last)


def beam_step(lprobs: Tensor, totals: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable joint continuations of a beam, over all combinations of the channels' units.

    Args:
        lprobs: ``(B, K, C, V)`` of the next unit after each of K hypotheses.
        totals: ``(B, K, C)`` log-probability of each hypothesis so far, by channel.
        beam: how many to keep.

    Returns:
        Which hypothesis each of them continues ``(B, beam)``, its units ``(B, beam, C)``, and its totals
        ``(B, beam, C)``, the most probable first.
    """
    batch, held, channels, _ = lprobs.shape
    width = min(beam, lprobs.size(-1))
    values, units = (lprobs + totals.unsqueeze(-1)).topk(width, -1)  # (B, K, C, width)
    joint = values[:, :, 0]
    for channel in range(1, channels):
        joint = joint.unsqueeze(-1) + values[:, :, channel].reshape(batch, held, *([1] * channel), width)
    order = joint.flatten(1).topk(min(beam, joint[0].numel()), -1).indices  # (B, beam)
    picks = []
    for _ in range(channels):
        picks.append(order % width)
        order = order // width
    pick = torch.stack(picks[::-1], -1).unsqueeze(-1)  # (B, beam, C, 1)
    parent = order.view(batch, -1, 1, 1).expand(-1, -1, channels, width)
    units, values = (x.gather(1, parent).gather(-1, pick).squeeze(-1) for x in (units, values))
    return order, units, values
