"""Figures of classifiers beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from speechdlm_ext.metrics.classification import accuracy, auroc, binary_figures, confusion, score_histograms
from tests.helpers.host_syncs import counted_syncs


def test_figures_equal_scikit_learns_and_add_up_over_batches() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(3)
    parts = [slice(0, 1000), slice(1000, 5000)]
    known, given = torch.from_numpy(labels), torch.from_numpy(scores)
    with counted_syncs() as syncs:
        counts = [confusion(known[part], (given[part] > 0.5).long(), 2) for part in parts]
        histograms = [score_histograms(given[part], known[part]) for part in parts]
    assert not syncs
    total, predicted = counts[0] + counts[1], (scores > 0.5).astype(int)
    assert (total.numpy() == sklearn_metrics.confusion_matrix(labels, predicted)).all()
    assert accuracy(total) == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    figures = binary_figures(total)
    expected = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average="binary")[:3]
    assert figures == pytest.approx(expected)
    area = auroc(histograms[0] + histograms[1])
    assert area == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-3)


def test_nothing_gives_none() -> None:
    empty = torch.zeros(3, 3, dtype=torch.long)
    assert accuracy(empty) is None and binary_figures(empty) == (None, None, None)
    assert auroc(torch.zeros(2, 10)) is None
