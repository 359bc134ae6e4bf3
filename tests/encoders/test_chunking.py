"""Batches of like length: everything once, little padding, no batch too large, and not too many of them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.encoders.chunking import group_by_length

SIZES = st.lists(st.tuples(st.floats(0, 4000, allow_subnormal=False), st.integers(1, 4)), max_size=60)


@given(SIZES, st.floats(1, 2000))
def test_each_item_once_and_no_batch_beyond_its_bounds(sizes: list[tuple[float, int]], most: float) -> None:
    batches = group_by_length(sizes, most)
    assert sorted(place for batch in batches for place in batch) == list(range(len(sizes)))
    for batch in batches:
        longest = max(sizes[place][0] for place in batch)
        padded = longest * sum(sizes[place][1] for place in batch)
        filled = sum(sizes[place][0] * sizes[place][1] for place in batch)
        if len(batch) > 1:
            assert padded <= most * (1 + 1e-9)
            assert padded - filled < 0.1 * padded
    firsts = [sizes[batch[0]][0] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)


def test_a_corpus_makes_few_batches() -> None:
    """10,000 utterances of 1 to 20 s, up to 480 s a batch: nearly as few batches as their length asks for."""
    chance = random.Random(1)
    sizes = [(chance.uniform(1, 20), 1) for _ in range(10_000)]
    batches = group_by_length(sizes, 480)
    assert len(batches) <= 1.1 * sum(length for length, _ in sizes) / 480
