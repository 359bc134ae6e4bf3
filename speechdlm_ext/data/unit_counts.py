"""Where the edges of a batch are, how many there are, and how many in all batches of an update, on all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.distributed import utils as distributed
from torch import Tensor

UPDATE_COUNTS = "update_counts"  # the field of a batch that holds those of its whole update


def edge_fields(target: Tensor, durations: Tensor, pad: int) -> dict[str, Any]:
    """The fields of a batch about its edges, made on the CPU so that training does not wait for a device.

    Args:
        target: ``(B, T, C)`` units, padded on the right.
        durations: ``(B, T, C)`` frames at edges, 0 elsewhere.
        pad: the padding's id.

    Returns:
        ``edges`` ``(3, N)``, their rows, frames and channels, the channels one after the other; ``followed_edges``
        ``(3, M)``, those with a frame after them in their row; ``counts``, for each channel its rows, frames, edges and
        followed edges.
    """
    channels, rows, frames = durations.permute(2, 0, 1).nonzero(as_tuple=True)
    real = target.ne(pad)
    edges = torch.stack([rows, frames, channels])
    followed = edges[:, frames + 1 < real.sum(1)[rows, channels]]
    count = [torch.bincount(found[2], minlength=target.size(2)).tolist() for found in (edges, followed)]
    counts = [[len(target), *of] for of in zip(real.sum((0, 1)).tolist(), *count, strict=True)]
    return {"edges": edges, "followed_edges": followed, "counts": counts}


def share_counts(samples: Sequence[dict[str, Any]], channels: int) -> list[dict[str, Any]]:
    """Give the batches of an update the counts of all of them, those of other processes included.

    Args:
        samples: this process's batches; empty ones stand for none, where another process has one more.
        channels: how many there are.

    Returns:
        The batches that are not empty, with the sum of the ``counts`` ``(C, 4)`` of :func:`edge_fields` of them all;
        where all are empty, one of those, for which fairseq trains on a stand-in without effect.
    """
    real = [sample for sample in samples if sample]
    counts = torch.zeros(channels, 4, dtype=torch.long)
    for sample in real:
        counts += torch.tensor(sample["counts"])
    if torch.distributed.is_initialized():
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        counts = distributed.all_reduce(counts.to(device), distributed.get_data_parallel_group())
    return [{**sample, UPDATE_COUNTS: counts} for sample in real] or list(samples[:1])
