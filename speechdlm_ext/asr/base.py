"""The interface of speech recognisers, and what they do with long speech."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.chunks import cut_at_silences
from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.intervals import Interval

if TYPE_CHECKING:
    import torch

    from speechdlm_ext.asr.ctc_decoding import BeamOptions

SAMPLE_RATE = 16000  # Hz, of all recognisers
MIN_SAMPLES = SAMPLE_RATE // 10  # less is shorter than a phone, and is not recognised
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
        takes: which of the options ``language`` and ``prompt`` it has.
        files: what it was read from.
        chunk_seconds: that are recognised at once; longer speech is cut where it is quietest.
        supports_laughter: whether it has a tag for laughter.
    """

    kind: ClassVar[str]
    usage: ClassVar[str]
    takes: ClassVar[frozenset[str]] = frozenset()
    files: tuple[Path, ...] = ()
    chunk_seconds: float = 30.0
    supports_laughter: bool = False

    @classmethod
    @abstractmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> Recogniser:
        """The recogniser that ``--asr KIND:MODEL`` names, on a device (by default a GPU where there is one).

        Args:
            model: what follows the kind.
            device: as torch names it.
            language: of the speech, where it ``takes`` that.
            prompt: text before the speech, where it ``takes`` that.

        Raises:
            InputError: it is not installed, or its weights are missing or invalid.
        """

    def search_with(self, beam: BeamOptions) -> None:
        """Decode by a beam search from now on; raises :class:`InputError` where there is none, or a file is missing."""
        raise InputError(f"--lm-model, --lexicon, --beam: the recogniser {self.kind} has no beam search, ctc has")

    @abstractmethod
    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        """Recognise each row of a batch; a row in a batch has the text that it has alone.

        Args:
            waves: (B, N) at 16 kHz, float32, full scale ±1, on the CPU; zeros beyond the end of a row.
            lengths: samples of each row, of at most ``chunk_seconds``.
        """

    def recognise(self, wave: NDArray[np.float32]) -> Transcript:
        """Recognise ``wave`` (N,) at 16 kHz, full scale ±1, of any length."""
        import torch

        bounds = cut_at_silences(wave, SAMPLE_RATE, self.chunk_seconds)
        found = []
        for first, last in bounds:
            chunk = torch.from_numpy(np.ascontiguousarray(wave[first:last], np.float32))[None]
            found += self.transcribe(chunk, [last - first]) if last - first >= MIN_SAMPLES else [Transcript("")]
        return join_transcripts(found, [first / SAMPLE_RATE for first, _ in bounds])


def join_transcripts(parts: Sequence[Transcript], origins: Sequence[float]) -> Transcript:
    """The transcript of speech from those of its chunks, which begin at these seconds."""
    words = [
        Word(word.text, word.start + origin, word.end + origin)
        for part, origin in zip(parts, origins, strict=True)
        for word in part.words
    ]
    return Transcript(" ".join(filter(None, (part.text for part in parts))), tuple(words))


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
            said = recogniser.recognise(wave[origin + a : origin + b])
            if said.text:
                first = (origin + a) / SAMPLE_RATE
                part = {"start": max(start, first), "end": min(end, (origin + b) / SAMPLE_RATE), "text": said.text}
                if said.words:
                    part["words"] = [
                        [word.text, round(first + word.start, 3), round(first + word.end, 3)] for word in said.words
                    ]
                found.append(part)
    return found
