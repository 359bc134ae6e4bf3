"""A source of units whose entropy is known: each unit depends on the two before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

UNITS = 50
# The unit after a, b is first[b], or second[a], or any: neither of the two before it tells enough alone.
FIRST, SECOND = 0.4, 0.3
ANY = (1 - FIRST - SECOND) / UNITS


@dataclass
class MarkovSource:
    """A source of order 2 over 50 units; the first unit of an utterance is any, the second follows the first twice."""

    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.first, self.second = random.permutation(UNITS), random.permutation(UNITS)

    def probabilities(self, a: int, b: int) -> np.ndarray:
        """Of the unit after a, b: ``(50,)``."""
        p = np.full(UNITS, ANY)
        p[self.first[b]] += FIRST
        p[self.second[a]] += SECOND
        return p

    def draw(self, lengths: np.ndarray, seed: int) -> list[list[int]]:
        """Utterances of these lengths."""
        random = np.random.default_rng((self.seed, seed))
        shape = len(lengths), int(lengths.max())
        kind, anything = random.random(shape), random.integers(UNITS, size=shape)
        units = anything.copy()
        for t in range(1, shape[1]):
            a, b = units[:, max(t - 2, 0)], units[:, t - 1]
            told = np.where(kind[:, t] < FIRST, self.first[b], self.second[a])
            units[:, t] = np.where(kind[:, t] < FIRST + SECOND, told, anything[:, t])
        return [line[:length].tolist() for line, length in zip(units, lengths, strict=True)]

    def bits_per_unit(self, lines: list[list[int]]) -> float:
        """Cross entropy of given utterances under the source itself."""
        bits, units = 0.0, 0
        for line in lines:
            bits += np.log2(UNITS)
            for t in range(1, len(line)):
                bits -= np.log2(self.probabilities(line[max(t - 2, 0)], line[t - 1])[line[t]])
            units += len(line)
        return bits / units

    def entropy(self) -> float:
        """Bits a unit in the long run, by the stationary distribution of pairs."""
        table = np.array([[self.probabilities(a, b) for b in range(UNITS)] for a in range(UNITS)])  # (a, b, next)
        pairs = np.full((UNITS, UNITS), 1 / UNITS**2)
        for _ in range(200):
            pairs = np.einsum("ab,abc->bc", pairs, table)
        return float(-(pairs[..., None] * table * np.log2(table)).sum())


def write_markov(folder: Path, lengths: np.ndarray, valid: int, seed: int = 0) -> tuple[MarkovSource, list[list[int]]]:
    """``train`` and ``valid`` text files of utterances; returns the source and the validation utterances."""
    source = MarkovSource(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"train": source.draw(lengths, 1), "valid": source.draw(lengths[:valid], 2)}
    for split, drawn in lines.items():
        (folder / split).write_text("".join(" ".join(map(str, line)) + "\n" for line in drawn))
    return source, lines["valid"]
