"""Choosing the next unit of every channel: random draws and beam search."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_likeliest(lprobs: Tensor, topk: int, topp: float) -> Tensor:
    """Log-probabilities ``(…, V)`` with all but the likeliest units at -inf.

    Args:
        topk: how many to keep; -1 for all.
        topp: keep the smallest set whose probability reaches p of the whole (Holtzman et al. 2020); -1 for all.
            As in the published code, ``topp`` takes precedence.
    """
    if topp > 0:
        ordered, order = lprobs.softmax(-1).sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        dropped = torch.zeros_like(ordered, dtype=torch.bool).scatter(-1, order, before >= topp)
        return lprobs.masked_fill(dropped, -torch.inf)
    if 0 < topk < lprobs.size(-1):
        least = lprobs.topk(topk, -1).values[..., -1:]
        return lprobs.masked_fill(lprobs < least, -torch.inf)
    return lprobs


def draw(lprobs: Tensor, uniform: Tensor) -> Tensor:
    """Draw units by inverting the distribution function at given uniform numbers.

    Args:
        lprobs: ``(…, V)``, not necessarily normalised; -inf is never drawn.
        uniform: ``(…)`` in [0, 1).

    Returns:
        Units ``(…)``.
    """
    cumulative = lprobs.double().softmax(-1).cumsum(-1)
    target = uniform.double().unsqueeze(-1) * cumulative[..., -1:]
    drawn = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    # Rounding may lead past the last unit of any probability.
    last = lprobs.size(-1) - 1 - lprobs.gt(-torch.inf).flip(-1).int().argmax(-1)
    return torch.minimum(drawn, last)


def best_continuations(lprobs: Tensor, totals: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest joint continuations of a beam, over all combinations of the channels' units.

    Args:
        lprobs: ``(B, K, C, V)`` of the next unit after each of K hypotheses.
        totals: ``(B, K, C)`` log-probability of each hypothesis so far, by channel.
        beam: how many to keep.

    Returns:
        Which hypothesis each of them continues ``(B, beam)``, its units ``(B, beam, C)``, and its totals
        ``(B, beam, C)``, the likeliest first.
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
    pick = torch.stack(picks[::-1], -1)  # (B, beam, C)
    rows = torch.arange(batch, device=lprobs.device).view(-1, 1, 1)
    column = torch.arange(channels, device=lprobs.device).view(1, 1, -1)
    hypothesis = order.unsqueeze(-1)
    return order, units[rows, hypothesis, column, pick], values[rows, hypothesis, column, pick]
