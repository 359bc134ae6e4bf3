"""Batches of rows of different lengths: which positions are of a row, and rows stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """Whether each position is within its row, (B, size) bool, of rows of ``lengths`` (B,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def full_lengths(rows: Tensor) -> Tensor:
    """The lengths (B,) of rows (B, …, T) without padding."""
    return torch.full((len(rows),), rows.shape[-1], device=rows.device)


def pad_right(rows: Sequence[Tensor], value: int) -> Tensor:
    """Stack ``(T_i, …)`` into ``(B, max T, …)``, filled with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
