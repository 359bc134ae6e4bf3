"""Figures of classifiers from counts that add up over batches and workers: confusion, accuracy, F1, AUROC."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 1000  # of probabilities: the AUROC is exact to about this share of ties


class BinaryFigures(NamedTuple):
    """Of one class; None where there is nothing to divide by."""

    precision: float | None
    recall: float | None
    f1: float | None


def confusion(labels: Tensor, predicted: Tensor, classes: int, valid: Tensor | None = None) -> Tensor:
    """Counts (classes, classes) by label, then by prediction; all of any one shape, on any device.

    Args:
        labels, predicted: classes.
        classes: how many there are.
        valid: which are counted; None: all.
    """
    return _counts(labels, predicted, classes, classes, valid)


def accuracy(counts: Tensor) -> float | None:
    """Share of the predictions of a confusion matrix that are right."""
    total = int(counts.sum())
    return int(counts.diagonal().sum()) / total if total else None


def binary_figures(counts: Tensor, positive: int = 1) -> BinaryFigures:
    """Precision, recall and F1 of a class of a confusion matrix."""
    hits = int(counts[positive, positive])
    found, labelled = int(counts[:, positive].sum()), int(counts[positive].sum())

    def share(above: int, below: int) -> float | None:
        return above / below if below else None

    return BinaryFigures(share(hits, found), share(hits, labelled), share(2 * hits, found + labelled))


def score_histograms(probabilities: Tensor, labels: Tensor, valid: Tensor | None = None, bins: int = BINS) -> Tensor:
    """Counts (2, bins) of the probabilities of the positive class, of negatives and of positives."""
    places = (probabilities.flatten() * bins).long().clamp_(0, bins - 1)
    return _counts(labels, places, 2, bins, valid)


def _counts(rows: Tensor, columns: Tensor, height: int, width: int, valid: Tensor | None) -> Tensor:
    places = rows.flatten().long() * width + columns.flatten().long()
    ones = torch.ones_like(places)
    if valid is not None:
        ones = valid.flatten().long()
        places = places.masked_fill(ones == 0, 0)
    counts = torch.zeros(height * width, dtype=torch.long, device=places.device)
    return counts.scatter_add_(0, places, ones).view(height, width)


def auroc(histograms: Tensor) -> float | None:
    """Area under the receiver's curve: the probability that a positive has the higher score, ties half."""
    negatives, positives = histograms.double().cpu()
    pairs = float(negatives.sum() * positives.sum())
    below = negatives.cumsum(0) - negatives
    return float((positives * (below + negatives / 2)).sum()) / pairs if pairs else None
