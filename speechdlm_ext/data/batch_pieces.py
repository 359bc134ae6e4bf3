"""Cutting a packed batch into smaller ones with the same gradients in sum."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from torch import Tensor


def cut_batch(sample: dict[str, Any], places: int, padding: int) -> Iterator[dict[str, Any]]:
    """Cut a batch of :class:`~speechdlm_ext.data.utterance_dataset.UtteranceDataset` between its items.

    Every sum over the pieces is that over the batch: losses, ``ntokens``, ``nsentences``, ``frames``.

    Args:
        sample: packed; an empty or a padded one is one piece.
        places: of a piece, about. There are as few pieces as that allows, and they are as equal as neighbours can be
            put together: none has more than ``places`` and half of its first and its last item,
            but for an item that is longer by itself.
        padding: the target where nothing is trained on.

    Yields:
        Batches like ``sample``, of about equal size, one or more.
    """
    if not sample or sample["target"].dim() != 1 or len(sample["target"]) <= places:
        yield sample
        return
    bounds = _bounds(sample["net_input"]["src_lengths"], places)
    ends = [0, *accumulate(sample["net_input"]["src_lengths"])]
    for first, last in zip(bounds, bounds[1:], strict=False):
        span = slice(ends[first], ends[last])
        target: Tensor = sample["target"][span]
        piece = {
            **sample,
            "id": sample["id"][first:last],
            "nsentences": last - first,
            "ntokens": int(target.ne(padding).sum()),
            "frames": 0 if first else sample["frames"],  # no more than a sum for the logs
            "net_input": {
                "src_tokens": sample["net_input"]["src_tokens"][span],
                "src_lengths": sample["net_input"]["src_lengths"][first:last],
            },
            "target": target,
        }
        if "durations" in sample:
            piece["durations"] = sample["durations"][span]
        yield piece


def _bounds(lengths: list[int], places: int) -> list[int]:
    """Numbers of the items that begin a piece, and at the end their number.

    The batch is divided evenly, and an item belongs where its middle is.
    """
    pieces = -(-sum(lengths) // places)
    share = sum(lengths) / pieces
    middles = [end - length / 2 for length, end in zip(lengths, accumulate(lengths), strict=True)]
    belongs = [int(middle / share) for middle in middles]
    return [0, *(item for item in range(1, len(lengths)) if belongs[item] > belongs[item - 1]), len(lengths)]
