"""Figures of units: entropy, bitrate, rate and repetition of a corpus, and how far it is from another one.

Bitrate: N units per second, times the unigram entropy of deduplicated units over the corpus (as in the evaluation of
DP-SLM and ZeroSyl); the cost of durations is not counted there, and given separately here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Units = NDArray[np.int64]
_MOST = 2**62
Dialogue = Sequence[ArrayLike]  # for each channel its units (T,), with repetitions


def deduplicate(units: ArrayLike) -> tuple[Units, Units]:
    """The units of runs, and how many frames each run has: ``7 7 5 7`` gives ``7 5 7`` and ``2 1 1``."""
    array = np.asarray(units, np.int64).reshape(-1)
    if not len(array):
        return array, array
    first = np.flatnonzero(np.concatenate(([True], array[1:] != array[:-1])))
    return array[first], np.diff(np.concatenate((first, [len(array)])))


def entropy(counts: ArrayLike) -> float:
    """Entropy of a distribution given by counts, in bits."""
    table = np.asarray(counts, np.float64)
    probabilities = table[table > 0] / table.sum()
    return float(-(probabilities * np.log2(probabilities)).sum())


def unit_figures(dialogues: Sequence[Dialogue], frame_rate: float, ngram: int = 4) -> dict[str, Any]:
    """Figures of each channel, and of all channels together.

    Args:
        dialogues: units of every channel.
        frame_rate: Hz.
        ngram: length of the sequences of runs that count as repetitions.

    Returns:
        ``{"channels": [figures of channel 0, …], "all": figures}``, each with ``frames``, ``seconds`` (of all channels
        that count), ``unit_rate`` (runs a second), ``mean_run`` (s), ``entropy`` and ``frame_entropy`` (bits, of runs
        and of frames), ``bitrate`` and ``bitrate_with_durations`` (bit/s: with the entropy of runs, and of runs
        together with their lengths), ``repetition`` (share of n-grams of runs that were there before in the same
        channel of the same dialogue), ``different`` (units that occur) and ``reason`` (None, or why figures are None).
    """
    width = max((len(dialogue) for dialogue in dialogues), default=0)
    channels = [[dialogue[c] for dialogue in dialogues if c < len(dialogue)] for c in range(width)]
    return {
        "channels": [_figures(channel, frame_rate, ngram) for channel in channels],
        "all": _figures([sequence for channel in channels for sequence in channel], frame_rate, ngram),
    }


def _figures(sequences: Sequence[ArrayLike], frame_rate: float, ngram: int) -> dict[str, Any]:
    runs = [deduplicate(sequence) for sequence in sequences]
    frames = int(sum(lengths.sum() for _, lengths in runs))
    seconds = frames / frame_rate
    names = ("unit_rate", "mean_run", "entropy", "frame_entropy", "bitrate", "bitrate_with_durations")
    if not frames:
        empty = dict.fromkeys(names)
        return {
            "frames": 0,
            "seconds": 0.0,
            **empty,
            "repetition": None,
            "different": 0,
            "reason": "there are no units",
        }
    units = np.concatenate([own for own, _ in runs])
    lengths = np.concatenate([own for _, own in runs])
    kinds, place = np.unique(units, return_inverse=True)
    counts = np.bincount(place)
    pairs = np.unique(place * (int(lengths.max()) + 1) + lengths, return_counts=True)[1]
    repeated, grams = (sum(values) for values in zip(*(_repetition(own, ngram) for own, _ in runs), strict=True))
    rate = len(units) / seconds
    values = (
        rate,
        float(lengths.mean()) / frame_rate,
        entropy(counts),
        entropy(np.bincount(place, lengths)),
        rate * entropy(counts),
        rate * entropy(pairs),
    )
    return {
        "frames": frames,
        "seconds": seconds,
        **dict(zip(names, values, strict=True)),
        "repetition": repeated / grams if grams else None,
        "different": len(kinds),
        "reason": None if grams else f"no channel has {ngram} runs",
    }


def _gram_numbers(sequences: Sequence[Units], length: int) -> tuple[Units, Units]:
    """All n-grams as numbers, (N,), equal for equal ones, and the place of each one's sequence, (N,)."""
    units = np.concatenate([np.zeros(0, np.int64), *sequences])
    owner = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(sequence) for sequence in sequences])
    count = max(0, len(units) - length + 1)
    inside = owner[:count] == owner[length - 1 :]  # what begins in one sequence and ends in another is none
    numbers = units[:count][inside]
    for place in range(1, length):
        size = int(units.max(initial=0)) + 1
        if int(numbers.max(initial=0)) >= _MOST // size:  # would no longer fit into 64 bits
            numbers = np.unique(numbers, return_inverse=True)[1]
        numbers = numbers * size + units[place : place + count][inside]
    return numbers, owner[:count][inside]


def _repetition(units: Units, ngram: int) -> tuple[int, int]:
    numbers, _ = _gram_numbers([units], ngram)
    return len(numbers) - len(np.unique(numbers)), len(numbers)


def compare_units(generated: Sequence[Dialogue], reference: Sequence[Dialogue], ngram: int = 4) -> dict[str, Any]:
    """How far the units of one corpus are from those of another, for each channel and for all together.

    Returns:
        ``{"channels": […], "all": …}``, each with ``jensen_shannon`` (divergence of the distributions of runs, in bits:
        0 for the same, 1 where no unit is common), ``novelty`` (share of the generated n-grams of runs that the
        reference does not have) and ``reason`` (None, or why figures are None).
    """
    width = max((len(dialogue) for corpus in (generated, reference) for dialogue in corpus), default=0)

    def runs(corpus: Sequence[Dialogue], channels: Iterable[int]) -> list[Units]:
        return [deduplicate(dialogue[c])[0] for c in channels for dialogue in corpus if c < len(dialogue)]

    return {
        "channels": [_compare(runs(generated, [c]), runs(reference, [c]), ngram) for c in range(width)],
        "all": _compare(runs(generated, range(width)), runs(reference, range(width)), ngram),
    }


def _compare(mine: list[Units], theirs: list[Units], ngram: int) -> dict[str, Any]:
    missing = [who for who, runs in (("generated", mine), ("reference", theirs)) if not sum(map(len, runs))]
    if missing:
        return {"jensen_shannon": None, "novelty": None, "reason": f"{missing[0]}: there are no units"}
    size = 1 + int(max(runs.max() for runs in (*mine, *theirs) if len(runs)))
    first, second = (np.bincount(np.concatenate(runs), minlength=size) for runs in (mine, theirs))
    numbers, owner = _gram_numbers([*mine, *theirs], ngram)
    grams, known = (np.unique(numbers[part], return_counts=True) for part in (owner < len(mine), owner >= len(mine)))
    total, some = int(grams[1].sum()), bool(len(known[0]))
    new = int(grams[1][~np.isin(grams[0], known[0], assume_unique=True)].sum())
    return {
        "jensen_shannon": jensen_shannon(first, second),
        "novelty": new / total if total and some else None,
        "reason": None if total and some else f"no channel has {ngram} runs",
    }


def jensen_shannon(first: ArrayLike, second: ArrayLike) -> float:
    """Jensen–Shannon divergence (Lin 1991) of two distributions given by counts of the same things, in bits."""
    p, q = (np.asarray(counts, np.float64) / np.sum(counts) for counts in (first, second))
    return max(0.0, entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)
