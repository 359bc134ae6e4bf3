"""How much there is of each target in a batch, and in all batches of an update, on all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.distributed import utils as distributed
from torch import Tensor

UPDATE_COUNTS = "update_counts"  # the field of a batch that holds those of its whole update


def count_units(target: Tensor, durations: Tensor, pad: int) -> Tensor:
    """Rows, frames, edges, and edges with a frame after them in their row, of each channel: ``(C, 4)``.

    Args:
        target: ``(B, T, C)`` units, padded on the right.
        durations: ``(B, T, C)`` frames at edges, 0 elsewhere.
        pad: the padding's id.
    """
    real = target.ne(pad)
    edges = durations.gt(0)
    followed = edges[:, :-1] & real[:, 1:]
    rows = torch.full((target.size(2),), target.size(0), dtype=torch.long, device=target.device)
    return torch.stack([rows, real.sum((0, 1)), edges.sum((0, 1)), followed.sum((0, 1))], 1)


def share_counts(samples: Sequence[dict[str, Any]], pad: int, channels: int) -> list[dict[str, Any]]:
    """Give the batches of an update the counts of all of them, those of other processes included.

    Args:
        samples: this process's batches; empty ones stand for none, where another process has one more.
        pad: the padding's id.
        channels: how many there are.

    Returns:
        The batches that are not empty, with :func:`count_units` of them all as lists of integers; where all are
        empty, one of those, for which fairseq trains on a stand-in without effect.
    """
    real = [sample for sample in samples if sample]
    counts = torch.zeros(channels, 4, dtype=torch.long)
    for sample in real:
        counts += count_units(sample["target"], sample["durations"], pad).cpu()
    if torch.distributed.is_initialized():
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        counts = distributed.all_reduce(counts.to(device), distributed.get_data_parallel_group())
    listed = counts.tolist()
    return [{**sample, UPDATE_COUNTS: listed} for sample in real] or list(samples[:1])
