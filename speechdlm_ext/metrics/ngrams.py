"""N-grams of units with Kneser-Ney smoothing: the baseline of unit language models."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

BOUNDARY = -1  # before the first unit of an utterance and after the last
Context = tuple[int, ...]


class KneserNey:
    """Interpolated modified Kneser-Ney (Chen & Goodman 1999, section 3) over units and the boundary.

    The highest order counts n-grams; lower orders count the different contexts of an n-gram, except for those that
    begin with the boundary, which nothing precedes. The lowest order is mixed with the uniform distribution over the K
    units and the boundary. Each order has three discounts (of what was counted once, twice and
    more often), which follow from its counts of counts; nothing is fitted to held-out data.

    Args:
        utterances: to count, each a sequence of units 0…K-1.
        order: n of the n-grams, from 1 on.
        num_units: size K of the codebook.
        without_repeats: a unit never follows itself, as among deduplicated units; that mass is given to the others.

    Raises:
        ValueError: an order below 1, or nothing to count.
    """

    def __init__(
        self, utterances: Sequence[Sequence[int]], order: int, num_units: int, without_repeats: bool = False
    ) -> None:
        if order < 1 or not any(map(len, utterances)):
            raise ValueError(f"an order of {order} and {len(utterances)} utterances: expected 1 or more, and units")
        self.order, self.num_units, self.without_repeats = order, num_units, without_repeats
        self.tables: list[dict[Context, Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
        for utterance in utterances:
            for context, unit in _ngrams(utterance, order):
                self.tables[len(context)][context][unit] += 1
        for length in range(order - 1, 0, -1):
            for context, counts in self.tables[length].items():
                for unit in counts:
                    self.tables[length - 1][context[1:]][unit] += 1
        self.discounts = [_discounts(table) for table in self.tables]
        self.weights = [
            {context: _rest(counts, discounts) for context, counts in table.items()}
            for table, discounts in zip(self.tables, self.discounts, strict=True)
        ]

    def probability(self, unit: int, context: Context) -> float:
        """Of a unit or the boundary after ``context``, the units before it (the boundary before them included)."""
        context = context[max(len(context) - self.order + 1, 0) :]
        probability = self._smoothed(unit, context)
        if self.without_repeats and context and context[-1] != BOUNDARY:
            last = context[-1]
            return 0.0 if unit == last else probability / (1.0 - self._smoothed(last, context))
        return probability

    def _smoothed(self, unit: int, context: Context) -> float:
        probability = 1.0 / (self.num_units + 1)
        for length in range(len(context) + 1):
            own = context[len(context) - length :]
            counts = self.tables[length].get(own)
            if counts:
                seen = counts.get(unit, 0)
                discount = self.discounts[length][min(seen, 3) - 1] if seen else 0.0
                probability = (seen - discount) / counts.total() + self.weights[length][own] * probability
        return probability


def _ngrams(units: Sequence[int], order: int) -> Iterator[tuple[Context, int]]:
    """Each unit and the boundary after the last, with up to ``order - 1`` before it, the boundary counted once."""
    line = (BOUNDARY, *units, BOUNDARY)
    for end in range(1, len(line)):
        yield line[max(end - order + 1, 0) : end], line[end]


def _discounts(table: dict[Context, Counter[int]]) -> tuple[float, float, float]:
    """Of counts of 1, 2, and 3 or more (Chen & Goodman 1999, equation 26); 0.5 where too few were counted."""
    many = Counter(count for counts in table.values() for count in counts.values() if count <= 4)
    if not all(many[count] for count in (1, 2, 3)):
        return 0.5, 0.5, 0.5
    share = many[1] / (many[1] + 2 * many[2])
    found = (count - (count + 1) * share * many[count + 1] / many[count] for count in (1, 2, 3))
    one, two, more = (min(max(discount, 0.1), 0.95 * count) for count, discount in enumerate(found, 1))
    return one, two, more


def _rest(counts: Counter[int], discounts: tuple[float, float, float]) -> float:
    """The mass that the discounts leave to lower orders, as a share."""
    return sum(discounts[min(count, 3) - 1] for count in counts.values()) / counts.total()


@dataclass(frozen=True)
class NgramFigures:
    """How well an n-gram predicts utterances, counted as the losses of unit language models are.

    Attributes:
        order: n.
        bits_per_unit: of units alone.
        bits_per_second: the same bits for the seconds that the units last; ``None`` where these are not known.
        nll_loss: bits per token, the ends of utterances counted, as fairseq logs it.
        units, utterances: how many were predicted.
    """

    order: int
    bits_per_unit: float
    bits_per_second: float | None
    nll_loss: float
    units: int
    utterances: int


def measure_ngram(model: KneserNey, utterances: Sequence[Sequence[int]], seconds: float | None = None) -> NgramFigures:
    """Predict utterances, each with a unit or more.

    Args:
        seconds: that all of them last.

    Raises:
        ValueError: there are none.
    """
    of_units, of_ends, units = 0.0, 0.0, 0
    for utterance in utterances:
        line = (BOUNDARY, *utterance, BOUNDARY)
        for end in range(1, len(line)):
            probability = model.probability(line[end], line[max(end - model.order + 1, 0) : end])
            bits = -math.log2(probability) if probability > 0 else math.inf
            if end < len(line) - 1:
                of_units += bits
                units += 1
            else:
                of_ends += bits
    if not units:
        raise ValueError("n-grams need units to predict")
    tokens = units + len(utterances)
    per_second = of_units / seconds if seconds else None
    return NgramFigures(
        model.order, of_units / units, per_second, (of_units + of_ends) / tokens, units, len(utterances)
    )


def has_repeats(utterances: Sequence[Sequence[int]]) -> bool:
    """Whether a unit follows itself anywhere."""
    return any(one == other for utterance in utterances for one, other in pairwise(utterance))
