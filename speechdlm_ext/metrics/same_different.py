"""The same-different task (Carlin et al. 2011): whether units tell words from one another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from speechdlm_ext.metrics.units import deduplicate


def same_different(words: Sequence[str], units: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Average precision with which the distance of two spoken words tells that they are the same word.

    The distance is the edit distance of their deduplicated units, over the length of the longer one.

    Args:
        words: what was said in each segment.
        units: of each segment, one for each frame or deduplicated.

    Returns:
        ``{"same_different": average precision, "pairs": of segments, "same": of the same word}``; the first is None
        where no pair, or every pair, is of the same word.
    """
    import editdistance
    from sklearn.metrics import average_precision_score

    runs = [deduplicate(np.asarray(one))[0].tolist() for one in units]
    same, near = [], []
    for (word, one), (other, two) in combinations(zip(words, runs, strict=True), 2):
        same.append(word == other)
        near.append(-editdistance.eval(one, two) / max(len(one), len(two), 1))
    known = 0 < sum(same) < len(same)
    found = float(average_precision_score(same, near)) if known else None
    return {"same_different": found, "pairs": len(same), "same": sum(same)}
