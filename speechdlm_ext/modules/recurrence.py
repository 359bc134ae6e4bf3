"""Recurrent layers over packed sequences, without the time that padding costs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from speechdlm_ext.modules.packing import Packing

# Share of a stretch that may be padding: on a CPU, a stretch of time costs as much as this many padded places.
SLACK = 0.1


def run_packed(lstm: nn.LSTM, x: Tensor, packing: Packing) -> Tensor:
    """States of an LSTM over each of the sequences in ``x``.

    On a GPU this is torch's packed sequence. On a CPU torch has its fast LSTM (oneDNN's) for padded ones alone: there
    time is cut into stretches, each over the sequences that are not at their end, the longest first, which begins
    with the states that the one before ended with. What little padding that leaves follows the ends, and no state of
    a sequence depends on it.

    Args:
        x: ``(N, D)``, as ``packing`` says.

    Returns:
        ``(N, H)``.
    """
    if x.device.type != "cpu":
        sequence, place = _packed_sequence(x, packing)
        states, _ = lstm(sequence)
        return states.data[place]
    order = sorted(range(len(packing.lengths)), key=lambda row: -packing.lengths[row])
    lengths = [packing.lengths[row] for row in order]
    starts = (torch.tensor(packing.lengths).cumsum(0) - torch.tensor(packing.lengths))[order]  # (B,)
    place = torch.empty(packing.total, dtype=torch.long)
    parts, done, state = [], 0, None
    for start, end, rows in stretches(lengths):
        time = torch.arange(start, end).unsqueeze(1)  # (T, 1)
        last = torch.tensor(lengths[:rows]) - 1
        source = starts[:rows] + torch.minimum(time, last)  # (T, rows): behind an end, its last place again
        if state is not None:
            state = tuple(part[:, :rows].contiguous() for part in state)
        states, state = lstm(x[source], state)
        parts.append(states.flatten(0, 1))
        real = (time <= last).flatten()
        place[source.flatten()[real]] = done + real.nonzero().squeeze(1)
        done += len(real)
    heard = parts[0] if len(parts) == 1 else torch.cat(parts)
    return heard.index_select(0, place)


def stretches(lengths: list[int], slack: float = SLACK) -> Iterator[tuple[int, int, int]]:
    """Cut time so that a sequence goes on in all of a stretch, or little of it is padding.

    Args:
        lengths: the greatest first.
        slack: greatest share of padding.

    Yields:
        Start and end of a stretch, and how many sequences, from the first on, go on beyond its start.
    """
    start, rows = 0, len(lengths)
    shortest_first = lengths[::-1]
    while rows:
        end = lengths[rows - 1]
        padding = 0
        for ended in range(1, rows):  # with the shortest `ended` sequences padded to the end of the next
            wider = lengths[rows - 1 - ended]
            padding += ended * (wider - lengths[rows - ended])
            if padding > slack * rows * (wider - start):
                break
            end = wider
        yield start, end, rows
        start, rows = end, len(lengths) - bisect_right(shortest_first, end)


def _packed_sequence(x: Tensor, packing: Packing) -> tuple[PackedSequence, Tensor]:
    """``(N, …)`` in torch's order, by time, the longest sequence first; and where each of our places is in it."""
    lengths = torch.tensor(packing.lengths)
    order = lengths.argsort(descending=True, stable=True)
    batch_sizes = torch.bincount(lengths).flip(0).cumsum(0)[:-1].flip(0)  # (T,)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    positions = torch.cat([torch.arange(n) for n in packing.lengths])
    before = batch_sizes.cumsum(0) - batch_sizes
    place = (before[positions] + rank.repeat_interleave(lengths)).to(x.device)
    data = torch.empty_like(place)
    data[place] = torch.arange(packing.total, device=x.device)
    return PackedSequence(x[data], batch_sizes), place
