"""How often the utterance that should be likelier is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.zerospeech import LikelihoodTest, Pair, stem
from speechdlm_ext.evaluation.zerospeech_files import Likelihood
from speechdlm_ext.metrics.bootstrap import BootstrapOptions, draw_weights, percentile_interval, ratios


@dataclass(frozen=True)
class Accuracy:
    """The result of a test.

    Attributes:
        accuracy: share of pairs whose right utterance is strictly likelier, as the mean over items of the mean over
            their pairs (voices), 0 to 1. A tie is not a success.
        with_ties: the same with a tie for half a success, as the ZeroSpeech challenge counts.
        interval: of :attr:`accuracy`, by resampling items, as voices that say the same are not independent.
        items, pairs: how many were compared.
        ties: pairs of equal likelihood.
        missing: utterances of the test that have no line in the scores.
        without_likelihood: those that have one that says nan, with its reason.
        left_out: pairs that could not be compared for either.
        groups: the same of each kind of items.
    """

    accuracy: float
    with_ties: float
    interval: list[float] | None
    items: int
    pairs: int
    ties: int
    missing: list[str] = field(default_factory=list)
    without_likelihood: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    groups: dict[str, Accuracy] = field(default_factory=dict)


def measure_accuracy(
    test: LikelihoodTest, scores: Mapping[str, Likelihood], options: BootstrapOptions | None = None
) -> Accuracy:
    """Judge scores by a test.

    Args:
        scores: by key; keys may have folders and suffixes that the test's names have not.
        options: of the intervals.

    Raises:
        InputError: two keys have the same name, or no pair of the test has scores.
    """
    options = options or BootstrapOptions()
    values = _by_name(scores)
    missing = sorted({name for pair in test.pairs for name in (pair.right, pair.wrong) if name not in values})
    without = {
        name: values[name].reason or "nan"
        for pair in test.pairs
        for name in (pair.right, pair.wrong)
        if name in values and math.isnan(values[name].value)
    }
    lost = {*missing, *without}
    pairs = [pair for pair in test.pairs if pair.right not in lost and pair.wrong not in lost]
    if not pairs:
        raise InputError(
            f"{test.path}: none of its {len(test.pairs)} pairs has scores, as of {test.pairs[0].right}: are they of "
            "another test?"
        )
    kinds = sorted({pair.group for pair in pairs})
    groups = {
        kind: _accuracy([pair for pair in pairs if pair.group == kind], values, options) for kind in kinds if kind
    }
    whole = _accuracy(pairs, values, options)
    return Accuracy(
        whole.accuracy,
        whole.with_ties,
        whole.interval,
        whole.items,
        whole.pairs,
        whole.ties,
        missing,
        without,
        len(test.pairs) - len(pairs),
        groups,
    )


def _by_name(scores: Mapping[str, Likelihood]) -> dict[str, Likelihood]:
    found: dict[str, Likelihood] = {}
    for key, score in scores.items():
        name = stem(key)
        if name in found:
            raise InputError(f"the scores of {found[name].key} and {key}: both are named {name}, which one is meant?")
        found[name] = score
    return found


def _accuracy(pairs: Sequence[Pair], values: Mapping[str, Likelihood], options: BootstrapOptions) -> Accuracy:
    """Of pairs that all have likelihoods."""
    of_items: dict[str, list[float]] = defaultdict(list)
    ties = 0
    halves: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        right, wrong = values[pair.right].value, values[pair.wrong].value
        of_items[pair.item].append(float(right > wrong))
        halves[pair.item].append(0.5 * (right > wrong) + 0.5 * (right >= wrong))
        ties += right == wrong
    means = np.array([np.mean(won) for won in of_items.values()])
    resampled = ratios(draw_weights(len(means), options), means, np.ones(len(means)))
    with_ties = float(np.mean([np.mean(won) for won in halves.values()]))
    interval = percentile_interval(resampled, options)
    return Accuracy(float(means.mean()), with_ties, interval, len(means), len(pairs), ties)
