"""Speech detection from units: which units are silence is found from the data; runs of all others are speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.vad.base import Annotation, Detector, speech_intervals

_WINDOW = 0.2  # seconds: a silence of this length bounds an inter-pausal unit
_MAX_ITERATIONS = 100
_MIN_WINDOWS = 25  # of a channel that is worth fitting: 5 s
_MAX_VARIETY = 0.7  # of silence: its different units in a window, relative to those of speech


@dataclass(frozen=True)
class Units(Detector):
    """units that are not silence; silence units are found in the corpus, or given.

    Attributes:
        silence: the units that are silence, see :func:`find_silence_units`.
        min_speech, min_silence: seconds.
    """

    name: ClassVar[str] = "units"
    reads: ClassVar[str] = "units"

    silence: tuple[int, ...] = ()
    min_speech: float = 0.06
    min_silence: float = 0.1

    def read(
        self, name: str, row: Mapping[str, Any], units: Sequence[ArrayLike] = (), frame_rate: float = 0.0
    ) -> Annotation:
        """See :meth:`Detector.read`.

        Raises:
            InputError: there are no units.
        """
        if not units:
            raise InputError(f"{name}: no units; --vad units needs unit files, or --units beside audio")
        speaking = [~np.isin(np.asarray(channel, np.int64), self.silence) for channel in units]
        rule = {"min_speech": self.min_speech, "min_silence": self.min_silence}
        return Annotation([speech_intervals(frames, 1 / frame_rate, 0.5, 0.5, **rule) for frames in speaking])


def find_silence_units(sequences: Sequence[ArrayLike], frame_rate: float) -> tuple[int, ...]:
    """The units that stand for silence and noise.

    The windows of 200 ms of each channel are samples of a mixture of two multinomials over units, fitted by
    expectation-maximization that starts from the windows with the most repetition. Silence is the component with fewer
    different units in a window. A channel counts if the two components differ clearly in that; a unit is silence if it
    is so more often than not in the channels that count. Channels are fitted one by one, as each line has its own
    noise.

    Args:
        sequences: units (T,) of each channel of each dialogue, with repetitions.
        frame_rate: Hz.

    Returns:
        Units that are more probably silence than speech, sorted.

    Raises:
        InputError: no channel has windows of both kinds.
    """
    length = max(2, round(_WINDOW * frame_rate))
    votes: dict[int, float] = {}
    for sequence in sequences:
        units = np.asarray(sequence, np.int64)
        windows = units[: len(units) // length * length].reshape(-1, length)
        if len(windows) >= _MIN_WINDOWS:
            for unit, vote in _vote(windows):
                votes[unit] = votes.get(unit, 0.0) + vote
    if not votes:
        raise InputError(
            f"silence cannot be found: no channel has both speech and silence in its units ({_MIN_WINDOWS} windows of "
            f"{length} units are needed); pass --silence-units, or another --vad"
        )
    return tuple(sorted(unit for unit, vote in votes.items() if vote > 0))


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
    if few > _MAX_VARIETY * many:
        return []
    return list(zip(kinds.tolist(), (silence @ counts - speech @ counts).tolist(), strict=True))


def _fit(counts: NDArray[np.float64], belongs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each window belongs to the first of two distributions (N,), from counts (N, K) and a first guess (N,)."""
    for _ in range(_MAX_ITERATIONS):
        weights = np.stack([belongs, 1 - belongs])
        distributions = weights @ counts + 0.01
        distributions /= distributions.sum(axis=1, keepdims=True)
        prior = float(np.clip(belongs.mean(), 1e-3, 1 - 1e-3))
        odds = counts @ np.log(distributions[0] / distributions[1]) + np.log(prior / (1 - prior))
        before, belongs = belongs, 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        if np.abs(belongs - before).max() < 1e-4:
            break
    return belongs
