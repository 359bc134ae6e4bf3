"""Audio in place of the placeholders of a batch of prompts: positions and counts, made on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError

IGNORED = -100  # a target that is not trained on


def splice(
    input_ids: Tensor,
    frames: Tensor | None,
    loss_mask: Tensor | None,
    tag: int,
    pad: int,
    longest: int | None = None,
) -> dict[str, Any]:
    """Where each token, and each frame of audio in place of its placeholder, stands in a batch.

    Args:
        input_ids: padded on the left ``(B, T)``.
        frames: of each audio, in the order of the placeholders, ``(A,)``; None without audio.
        loss_mask: which tokens are trained on, bool ``(B, T)``; None: all.
        tag, pad: ids of the placeholder and of padding. Padding is what stands before a row's first other token.
        longest: greatest number of positions.

    Returns:
        ``source`` ``(B, T')``: which row each position has of a table that holds the tokens' embeddings (B·T rows),
        then the audio's (A·F rows), then one of zeros, for padding; F, the longest audio, is ``width``. ``mask``, bool
        ``(B, T')``: what is not padding. ``target`` ``(B, T')``: the token at each position, :data:`IGNORED` at audio,
        padding, and outside the loss mask. ``predictions``: that many last positions but one predict all targets.

    Raises:
        InputError: not as many audios as placeholders, an audio of no frames, or more than ``longest`` positions.
    """
    ids = input_ids.numpy()
    counts = np.zeros(0, np.int64) if frames is None else frames.numpy()
    is_tag, present = ids == tag, (ids != pad).cumsum(1) > 0
    if is_tag.sum() != len(counts):
        raise InputError(f"{is_tag.sum()} placeholders for {len(counts)} audios: expected one each")
    if len(counts) and counts.min() < 1:
        raise InputError(f"audio {counts.argmin() + 1} of {len(counts)} is empty, or too short for one frame")
    width = int(counts.max(initial=0))
    lengths, first = present.astype(np.int64), np.arange(ids.size).reshape(ids.shape)  # of each token, in the table
    lengths[is_tag], first[is_tag] = counts, ids.size + np.arange(len(counts)) * width
    totals = lengths.sum(1, keepdims=True)
    positions = int(totals.max())
    if longest is not None and positions > longest:
        raise InputError(
            f"{positions} positions of text and audio, the language model has {longest}: use shorter audio"
        )
    trained = present & ~is_tag & (True if loss_mask is None else loss_mask.numpy())
    repeats = lengths[present]
    within = np.arange(repeats.sum()) - np.repeat(repeats.cumsum() - repeats, repeats)
    mask = np.arange(positions) >= positions - totals
    source = np.full(mask.shape, ids.size + len(counts) * width)
    source[mask] = np.repeat(first[present], repeats) + within
    target = np.full(mask.shape, IGNORED)
    target[mask] = np.repeat(np.where(trained, ids, IGNORED)[present], repeats)
    earliest = int((target != IGNORED).any(0).argmax())
    return {
        "source": torch.from_numpy(source),
        "mask": torch.from_numpy(mask),
        "target": torch.from_numpy(target),
        "width": width,
        "predictions": positions - max(earliest, 1),
    }
