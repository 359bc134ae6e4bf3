"""Features of recordings in memory, for codebooks of tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.units.kmeans import count_frames, draw_features


def sampling_share(rows: Sequence[Mapping[str, Any]], encoder: Encoder, max_frames: int) -> float:
    """The share of the frames of each recording that comes to about ``max_frames`` in all; 1 at most."""
    return min(1.0, max_frames / max(count_frames(rows, encoder), 1))


def sample_features(
    rows: Sequence[Mapping[str, Any]], encoder: Encoder, max_frames: int, seed: int
) -> tuple[torch.Tensor, list[float]]:
    """About ``max_frames`` features (n, D) of the rows of a manifest, and the active level of each channel in dB."""
    drawn = list(draw_features(list(enumerate(rows)), encoder, sampling_share(rows, encoder, max_frames), seed))
    assert not any(one.error for one in drawn)
    return torch.cat([one.features for one in drawn]), [level for one in drawn for level in one.levels]
