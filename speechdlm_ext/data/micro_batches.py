"""Cutting a packed batch into smaller ones with the same gradients in sum."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def cut_batch(sample: dict[str, Any], places: int, padding: int) -> Iterator[dict[str, Any]]:
    """Cut a batch of :class:`~speechdlm_ext.data.utterance_dataset.UtteranceDataset` between its items.

    Every sum over the pieces is that over the batch: losses, ``ntokens``, ``nsentences``, ``frames``.

    Args:
        sample: packed; an empty or a padded one is one piece.
        places: of a piece, about. There are as few pieces as that allows, and they are about equal: the largest exceeds
            the mean by less than the longest item.
        padding: the target where nothing is trained on.

    Yields:
        Batches like ``sample``, of about equal size, one or more.
    """
    if not sample or sample["target"].dim() != 1 or len(sample["target"]) <= places:
        yield sample
        return
    lengths = sample["net_input"]["src_lengths"]
    tokens, targets = sample["net_input"]["src_tokens"].split(lengths), sample["target"].split(lengths)
    durations = sample["durations"].split(lengths) if "durations" in sample else None
    for number, items in enumerate(_share_out(lengths, places)):
        target = _joined(targets, items)
        piece = {
            **sample,
            "id": sample["id"][items],
            "nsentences": len(items),
            "ntokens": int(target.ne(padding).sum()),
            "frames": 0 if number else sample["frames"],  # no more than a sum for the logs
            "net_input": {"src_tokens": _joined(tokens, items), "src_lengths": [lengths[item] for item in items]},
            "target": target,
        }
        if durations is not None:
            piece["durations"] = _joined(durations, items)
        yield piece


def _joined(parts: Sequence[Tensor], items: list[int]) -> Tensor:
    return torch.cat([parts[item] for item in items])


def _share_out(lengths: list[int], places: int) -> list[list[int]]:
    """The numbers of the items of each piece, in order: the longest first, each to the piece that has least."""
    pieces: list[list[int]] = [[] for _ in range(-(-sum(lengths) // places))]
    filled = [(0, number) for number in range(len(pieces))]
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        size, number = filled[0]
        pieces[number].append(item)
        heapq.heapreplace(filled, (size + lengths[item], number))
    return [sorted(items) for items in pieces if items]
