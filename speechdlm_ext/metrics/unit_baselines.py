"""How well units are predicted without a network: unigram and bigram bits per edge unit.

An *edge* is the start of a run of equal units, the first frame of a sequence included; these are the units that the
SpeechDLM's edge loss counts (Nguyen et al. 2022, section 3.3). The baselines see the runs of one channel with their
repetitions removed, as text, and predict the same units.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

Unit = str | int
BEGIN = "<s>"  # context of a sequence's first unit


@dataclass(frozen=True)
class Baseline:
    """Bits per edge unit of validation sequences, and how they came about."""

    name: str
    bits: float
    edges: int
    weights: dict[str, float]


def run_starts(units: Iterable[Unit]) -> list[Unit]:
    """The units without their repetitions: ``7 7 5 5 7`` gives ``7 5 7``."""
    return [unit for unit, _ in groupby(units)]


def unit_baselines(
    train: Sequence[Sequence[Unit]], valid: Sequence[Sequence[Unit]], vocabulary: int
) -> tuple[Baseline, Baseline]:
    """Unigram and bigram bits per edge unit.

    Unigram: maximum likelihood mixed with the uniform distribution over ``vocabulary`` units. Bigram: mixed with that
    unigram, with the weight of the bigram n/(n + d·t), where n is how often the context was seen in training and t
    with how many different units after it (Witten & Bell 1991, with a factor d). A unit does not follow itself
    among run starts, so probabilities after a unit are those of the others, scaled up to 1. The weight of the
    uniform part and the factor d are chosen for the lowest bits on ``valid`` itself, which favours the baseline.

    Args:
        train: sequences of units, one for each channel of each recording.
        valid: likewise; only these are scored.
        vocabulary: number of units that exist.

    Returns:
        Unigram and bigram.

    Raises:
        ValueError: nothing to train on or nothing to score.
    """
    train_runs, valid_runs = [run_starts(s) for s in train], [run_starts(s) for s in valid]
    if not any(train_runs) or not any(valid_runs):
        raise ValueError("baselines need units to count and units to score")
    counts = Counter(unit for runs in train_runs for unit in runs)
    pairs = Counter(pair for runs in train_runs for pair in zip([BEGIN, *runs], runs, strict=False))
    # What is scored, with how often: a corpus has far fewer different pairs than edges.
    scored = Counter(pair for runs in valid_runs for pair in zip([BEGIN, *runs], runs, strict=False))
    edges = sum(scored.values())
    unigram = min(
        (Baseline("unigram", _unigram_bits(scored, counts, vocabulary, u), edges, {"uniform": u}) for u in _UNIFORM),
        key=lambda b: b.bits,
    )
    bigram = min(
        (
            Baseline("bigram", _bigram_bits(scored, counts, pairs, vocabulary, u, d), edges, {"uniform": u, "d": d})
            for u in _UNIFORM
            for d in _DISCOUNTS
        ),
        key=lambda b: b.bits,
    )
    return unigram, bigram


_UNIFORM = (1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7)
_DISCOUNTS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


def _unigram(counts: Counter[Unit], vocabulary: int, uniform: float) -> dict[Unit, float]:
    total = sum(counts.values())
    return {unit: (1 - uniform) * n / total + uniform / vocabulary for unit, n in counts.items()}


def _unigram_bits(scored: Counter[tuple[Unit, Unit]], counts: Counter[Unit], vocabulary: int, uniform: float) -> float:
    """The plain unigram: it does not know what came before, so it gives away mass to repetitions."""
    chances, unseen = _unigram(counts, vocabulary, uniform), uniform / vocabulary
    bits = sum(n * -math.log2(chances.get(unit, unseen)) for (_, unit), n in scored.items())
    return bits / sum(scored.values())


def _bigram_bits(
    scored: Counter[tuple[Unit, Unit]],
    counts: Counter[Unit],
    pairs: Counter[tuple[Unit, Unit]],
    vocabulary: int,
    uniform: float,
    discount: float,
) -> float:
    chances, unseen = _unigram(counts, vocabulary, uniform), uniform / vocabulary
    seen: Counter[Unit] = Counter()
    kinds: Counter[Unit] = Counter()
    for (context, _), n in pairs.items():
        seen[context] += n
        kinds[context] += 1
    bits = 0.0
    for (context, unit), n in scored.items():
        others = 1.0 if context == BEGIN else 1.0 - chances.get(context, unseen)
        backoff = chances.get(unit, unseen) / others
        weight = discount * kinds[context] / (seen[context] + discount * kinds[context]) if seen[context] else 1.0
        chance = weight * backoff
        if seen[context]:
            chance += (1 - weight) * pairs[context, unit] / seen[context]
        bits -= n * math.log2(chance)
    return bits / sum(scored.values())
