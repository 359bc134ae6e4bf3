"""Average precision of word pairs, against cases that are known."""

from __future__ import annotations

import numpy as np
import pytest

from speechdlm_ext.metrics.same_different import same_different


def test_words_that_are_told_apart_and_words_that_are_not() -> None:
    words = ["a", "a", "b", "b"]
    # Equal but for how long units last.
    apart = same_different(words, [[1, 1, 2], [1, 2, 2, 2], [5, 6], [5, 5, 6]])
    assert apart == {"same_different": 1.0, "pairs": 6, "same": 2}
    # The two of one word are farther from one another than from the other word: the worst order of 2 among 6.
    wrong = same_different(words, [[1, 2, 3], [4, 5, 6], [1, 2, 3], [4, 5, 6]])
    assert wrong["same_different"] == pytest.approx(2 / 6)  # at the end, 2 of 6 pairs are of the same word
    for one in (["a", "a"], ["a", "b"], ["a"], []):
        assert same_different(one, [[1]] * len(one))["same_different"] is None


def test_distances_are_relative_to_the_longer_word() -> None:
    # 1 of 5 units differs in the pair of one word, 1 of 2 in the others.
    found = same_different(["a", "a", "b"], [np.array([1, 2, 3, 4, 5]), [1, 2, 3, 4, 9], [1, 9]])
    assert found["same_different"] == 1.0
