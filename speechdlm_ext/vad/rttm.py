"""Speech from RTTM files: ground truth, or what a diarization system found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.rttm import SpeakerTurn, read_rttm, speech_by_speaker
from speechdlm_ext.metrics.intervals import intervals_to_frames
from speechdlm_ext.vad.base import Annotation, Detector, Speech

FRAME_SHIFT = 0.01  # seconds, of the levels that tell which speaker is which channel
MIN_DIFFERENCE = 3.0  # dB by which the best order of speakers must exceed the next best
_SIDE = re.compile(r"(?:.*[-_. ])?([a-h]|left|right)", re.IGNORECASE)


@dataclass(frozen=True)
class RTTM(Detector):
    """RTTM files (rttm:FILE, or those in or beside the corpus).

    Which speaker is which channel is said by the manifest (``"speakers": [label of channel A, label of channel B]``),
    by channel numbers in the RTTM that differ between speakers, or by labels that end in A, B, … or left, right.
    Otherwise, beside audio of several channels, :func:`order_by_level` finds out.
    """

    name: ClassVar[str] = "rttm"
    reads: ClassVar[str] = "annotation"

    files: tuple[str, ...] = ()

    def read(
        self, name: str, row: Mapping[str, Any], units: Sequence[ArrayLike] = (), frame_rate: float = 0.0
    ) -> Annotation | None:
        """See :meth:`Detector.read`.

        Raises:
            InputError: a file is missing or malformed, or the manifest names other speakers.
        """
        own = self._turns.get(name) or self._turns.get(Path(name).name)
        return _by_channel(name, own, row.get("speakers")) if own else None

    @cached_property
    def _turns(self) -> dict[str, list[SpeakerTurn]]:
        """By recording; the files are read once."""
        turns: dict[str, list[SpeakerTurn]] = {}
        for path in self.files:
            for turn in read_rttm(path):
                turns.setdefault(turn.recording, []).append(turn)
        return turns


def _by_channel(name: str, turns: list[SpeakerTurn], speakers: Any) -> Annotation:
    (speech,) = speech_by_speaker(turns).values()
    if speakers is not None:
        if not isinstance(speakers, list) or not set(speech) <= set(speakers) or len(set(speakers)) < len(speakers):
            raise InputError(f"{name}: the manifest's speakers are {speakers}, those of the RTTM {sorted(speech)}")
        return Annotation([speech.get(label, []) for label in speakers], speakers)
    channels = {(turn.channel, turn.speaker) for turn in turns}
    numbers = {channel for channel, _ in channels}
    if len(channels) == len(speech) == len(numbers) and min(numbers) >= 1 and max(numbers) > 1:
        labels = dict(channels)
        order = [labels.get(channel, "") for channel in range(1, max(numbers) + 1)]
        return Annotation([speech.get(label, []) for label in order], order)
    sides = {match[1].lower(): label for label in speech if (match := _SIDE.fullmatch(label))}
    if len(sides) == len(speech):
        for names in (("left", "right"), "abcdefgh"[: ord(max(sides)[0]) - ord("a") + 1]):
            if set(sides) <= set(names):
                order = [sides.get(side, "") for side in names]
                return Annotation([speech.get(label, []) for label in order], order)
    order = sorted(speech)
    return Annotation([speech[label] for label in order], order, by_channel=False)


def order_by_level(speech: Speech, powers: Sequence[NDArray[np.float64]]) -> list[int] | None:
    """The channel of each speaker: where they are louder while they alone speak.

    Of all ways to give each speaker a channel of their own, the one with the greatest sum, over speakers, of their
    level in dB on their channel.

    Args:
        speech: of each speaker, no more than channels.
        powers: mean square of each channel in frames of 10 ms, (T,) each.

    Returns:
        A channel for each speaker; None if a speaker never speaks alone, or the next best way is less than 3 dB a
        speaker behind.
    """
    from scipy.optimize import linear_sum_assignment

    frames = np.stack([intervals_to_frames(own, len(powers[0]), FRAME_SHIFT) for own in speech])
    alone = frames & (frames.sum(axis=0) == 1)
    if not alone.any(axis=1).all():
        return None
    power = np.stack([[channel[own].mean() for channel in powers] for own in alone])
    levels = 10 * np.log10(np.maximum(power, 1e-10))  # (speakers, channels)
    speakers, best = linear_sum_assignment(levels, maximize=True)
    others = []
    for speaker, channel in zip(speakers, best, strict=True):
        without = levels.copy()
        without[speaker, channel] = -1e6
        others.append(without[linear_sum_assignment(without, maximize=True)].sum())
    if levels[speakers, best].sum() - max(others) < MIN_DIFFERENCE * len(speech):
        return None
    return [int(channel) for channel in best]
