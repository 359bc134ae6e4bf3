"""The interface of speech recognisers, and what they do with long speech."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.chunks import cut_at_silences
from speechdlm_ext.metrics.intervals import Interval

SAMPLE_RATE = 16000  # Hz, of all recognisers
MIN_SECONDS = 0.1  # less is shorter than a phone, and is not recognised
LAUGHTER = re.compile(r"[\[<].*laugh.*[\]>]", re.IGNORECASE)


class Word(NamedTuple):
    """A recognised word, or tag such as ``[laughter]``; seconds from the beginning of what was recognised."""

    text: str
    start: float
    end: float


class Transcript(NamedTuple):
    """What was recognised.

    Attributes:
        text: words, and tags of noises in brackets.
        words: the same with times; empty where the recogniser knows none.
    """

    text: str
    words: tuple[Word, ...] = ()


class Recogniser(ABC):
    """A speech recogniser; to add one, write it in a file of its own and name it in ``speechdlm_ext/asr/__init__.py``.

    Attributes:
        kind: by which ``--asr KIND:…`` selects it.
        usage: what ``--asr`` takes.
        files: what it was read from.
        chunk_seconds: that are recognised at once; longer speech is cut where it is quietest.
        supports_laughter: whether it has a tag for laughter.
    """

    kind: ClassVar[str]
    usage: ClassVar[str]
    files: tuple[Path, ...] = ()
    chunk_seconds: float = 30.0
    supports_laughter: bool = False

    @classmethod
    @abstractmethod
    def from_spec(cls, model: str) -> Recogniser:
        """The recogniser that ``--asr KIND:MODEL`` names.

        Raises:
            InputError: it is not installed, or its weights are missing or invalid.
        """

    @abstractmethod
    def recognise(self, wave: NDArray[np.float32]) -> Transcript:
        """Recognise ``wave`` (N,) at 16 kHz, full scale ±1, of at most ``chunk_seconds``."""

    def transcribe(self, wave: NDArray[np.float32]) -> Transcript:
        """Recognise ``wave`` (N,) at 16 kHz, full scale ±1, of any length."""
        texts, words = [], []
        for first, last in cut_at_silences(wave, SAMPLE_RATE, self.chunk_seconds):
            if last - first >= MIN_SECONDS * SAMPLE_RATE:
                found = self.recognise(wave[first:last])
                origin = first / SAMPLE_RATE
                texts.append(found.text)
                words += [Word(word.text, word.start + origin, word.end + origin) for word in found.words]
        return Transcript(" ".join(filter(None, texts)), tuple(words))


def transcribe_intervals(
    recogniser: Recogniser, wave: NDArray[np.float32], intervals: Sequence[Interval], margin: float = 0.1
) -> list[dict[str, Any]]:
    """Recognise the intervals of speech of one channel (N,) at 16 kHz.

    Args:
        recogniser: of the words.
        wave: samples (N,).
        intervals: (start, end) in seconds, in order.
        margin: seconds before and after each interval that are recognised, too, at most to the middle of a silence.

    Returns:
        ``{"start", "end", "text"}`` of each interval, or chunk of a long one, in which something was recognised; with
        ``"words"``, ``[text, start, end]`` each, where the recogniser knows their times. All in seconds.
    """
    found = []
    ends = [0.0, *(end for _, end in intervals)]
    starts = [*(start for start, _ in intervals), len(wave) / SAMPLE_RATE]
    for number, (start, end) in enumerate(intervals):
        before = min(margin, max(0.0, start - ends[number]) / (2 if number else 1))
        after = min(margin, max(0.0, starts[number + 1] - end) / (2 if number + 1 < len(intervals) else 1))
        origin, last = round((start - before) * SAMPLE_RATE), round((end + after) * SAMPLE_RATE)
        for a, b in cut_at_silences(wave[origin:last], SAMPLE_RATE, recogniser.chunk_seconds):
            said = recogniser.transcribe(wave[origin + a : origin + b])
            if said.text:
                first = (origin + a) / SAMPLE_RATE
                part = {"start": max(start, first), "end": min(end, (origin + b) / SAMPLE_RATE), "text": said.text}
                if said.words:
                    part["words"] = [
                        [word.text, round(first + word.start, 3), round(first + word.end, 3)] for word in said.words
                    ]
                found.append(part)
    return found
