"""Accuracy of log-likelihoods: how often the utterance that should be more probable is (sWUGGY, sBLIMP, StoryCloze)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from speechdlm_ext.metrics.bootstrap import BootstrapOptions, draw_weights, percentile_interval, ratios


class Pair(NamedTuple):
    """Two utterances of which the first should be more probable.

    Attributes:
        item: what is tested; several speakers may say it.
        right, wrong: names of the utterances.
        group: a kind of items, for figures of its own; ``""`` where there are none.
    """

    item: str
    right: str
    wrong: str
    group: str = ""


def accuracy(
    pairs: Sequence[Pair], values: Mapping[str, float], bootstrap: BootstrapOptions | None = None
) -> dict[str, Any]:
    """How often the right utterance is strictly more probable.

    Args:
        pairs: one or more.
        values: log-likelihood of each utterance.
        bootstrap: of the interval.

    Returns:
        ``accuracy``: the mean over items of the mean over their pairs (speakers), 0 to 1; a tie is no success.
        ``with_ties``: the same with a tie for half a success, as the ZeroSpeech challenge counts. ``interval`` of
        ``accuracy``, by resampling items, as speakers who say the same are not independent. ``items``, ``pairs``,
        ``ties``: numbers. ``groups``: the same of each kind of items.
    """
    figures = _figures(pairs, values, bootstrap or BootstrapOptions())
    kinds = sorted({pair.group for pair in pairs} - {""})
    groups = {
        kind: _figures([p for p in pairs if p.group == kind], values, bootstrap or BootstrapOptions()) for kind in kinds
    }
    return {**figures, "groups": groups}


def _figures(pairs: Sequence[Pair], values: Mapping[str, float], bootstrap: BootstrapOptions) -> dict[str, Any]:
    won: dict[str, list[float]] = defaultdict(list)
    halves: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        right, wrong = values[pair.right], values[pair.wrong]
        won[pair.item].append(float(right > wrong))
        halves[pair.item].append((float(right > wrong) + float(right >= wrong)) / 2)
    means = np.array([np.mean(successes) for successes in won.values()])
    resampled = ratios(draw_weights(len(means), bootstrap), means, np.ones(len(means)))
    return {
        "accuracy": float(means.mean()),
        "with_ties": float(np.mean([np.mean(successes) for successes in halves.values()])),
        "interval": percentile_interval(resampled, bootstrap),
        "items": len(means),
        "pairs": len(pairs),
        "ties": sum(values[pair.right] == values[pair.wrong] for pair in pairs),
    }
