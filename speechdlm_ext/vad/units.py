"""Speech activity from units: which units are silence is found from the data, then runs of all others are speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.intervals import Interval
from speechdlm_ext.vad.energy import SpeechRule, speech_stretches

_STEPS = 100
_FEWEST = 25  # windows of a channel that are worth fitting: 5 s
_APART = 0.7  # silence has at most this share of the different units that a window of speech has


@dataclass(frozen=True)
class UnitActivityOptions:
    """Thresholds of :func:`detect_speech_units`; times in seconds."""

    window: float = 0.2  # that silence units are found by: a silence of this length bounds an inter-pausal unit
    shortest_speech: float = 0.06
    shortest_silence: float = 0.1


def find_silence_units(
    sequences: Sequence[ArrayLike], frame_rate: float, options: UnitActivityOptions | None = None
) -> list[int]:
    """The units that stand for silence and noise.

    In each channel of each dialogue, windows of 200 ms are taken for draws from one of two distributions of units (a
    mixture of two multinomials, fitted by expectation-maximisation from the windows in which units repeat most).
    Silence is the one with fewer different units in a window: noise is always alike, speech is not. A channel counts
    if the two are clearly apart in that; a unit is silence if it is more often so than not in the channels that count.
    Channels are fitted one by one because each line has a noise of its own.

    Args:
        sequences: units (T,) of each channel of each dialogue, with repetitions.
        frame_rate: Hz.
        options: length of the windows.

    Returns:
        Units that are more likely silence than speech, sorted.

    Raises:
        InputError: no channel has windows of both kinds.
    """
    length = max(2, round((options or UnitActivityOptions()).window * frame_rate))
    votes: dict[int, float] = {}
    for sequence in sequences:
        units = np.asarray(sequence, np.int64)
        windows = units[: len(units) // length * length].reshape(-1, length)
        if len(windows) >= _FEWEST:
            for unit, vote in _vote(windows):
                votes[unit] = votes.get(unit, 0.0) + vote
    if not votes:
        raise InputError(
            f"silence cannot be found: no channel has speech and silence in its units ({_FEWEST} windows of "
            f"{length} units are needed); name the units by --silence-units, or choose another --vad"
        )
    return sorted(unit for unit, vote in votes.items() if vote > 0)


def _vote(windows: NDArray[np.int64]) -> list[tuple[int, float]]:
    """For each unit of a channel, how often it is silence less how often it is speech; nothing if that is not clear."""
    kinds, flat = np.unique(windows, return_inverse=True)
    counts = np.zeros((len(windows), len(kinds)))
    np.add.at(counts, (np.repeat(np.arange(len(windows)), windows.shape[1]), flat.reshape(-1)), 1)
    different = (counts > 0).sum(axis=1)
    rank = np.argsort(np.argsort(different, kind="stable"), kind="stable")
    first = _fit(counts, np.where(rank < len(rank) / 2, 0.9, 0.1))
    groups = [(belongs @ different / belongs.sum(), belongs) for belongs in (first, 1 - first) if belongs.sum() >= 1]
    if len(groups) < 2:
        return []
    (few, silence), (many, speech) = sorted(groups, key=lambda group: group[0])
    if few > _APART * many:
        return []
    return list(zip(kinds.tolist(), (silence @ counts - speech @ counts).tolist(), strict=True))


def _fit(counts: NDArray[np.float64], belongs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each window belongs to the first of two distributions (N,), from counts (N, K) and a first guess (N,)."""
    for _ in range(_STEPS):
        weights = np.stack([belongs, 1 - belongs])
        distributions = weights @ counts + 0.01
        distributions /= distributions.sum(axis=1, keepdims=True)
        prior = float(np.clip(belongs.mean(), 1e-3, 1 - 1e-3))
        odds = counts @ np.log(distributions[0] / distributions[1]) + np.log(prior / (1 - prior))
        before, belongs = belongs, 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        if np.abs(belongs - before).max() < 1e-4:
            break
    return belongs


def detect_speech_units(
    units: ArrayLike, frame_rate: float, silence: Sequence[int], options: UnitActivityOptions | None = None
) -> list[Interval]:
    """When somebody speaks on one channel: runs of units that are not silence.

    Args:
        units: with repetitions, (T,).
        frame_rate: Hz; decisions are 1 / frame_rate seconds apart.
        silence: the units that are silence.
        options: thresholds.

    Returns:
        Stretches of speech, (start, end) in seconds.
    """
    options = options or UnitActivityOptions()
    speaks = ~np.isin(np.asarray(units, np.int64), np.asarray(list(silence), np.int64))
    rule = SpeechRule(0.5, 0.5, options.shortest_speech, options.shortest_silence)
    return speech_stretches(speaks.astype(np.float64), 1 / frame_rate, rule)
