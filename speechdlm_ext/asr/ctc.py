"""CTC models as recognisers, whoever trained them: bounded pieces, scores of each frame, the most likely labels."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.chunks import cut_at_silences

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16000  # Hz, of all recognisers here
SHORTEST = 0.1  # seconds: less than a phone is not listened to
_LAUGHTER = re.compile(r"[\[<].*laugh.*[\]>]", re.IGNORECASE)


class GreedyCTC(ABC):
    """A CTC model that is decoded greedily, without a language model; label 0 is the blank.

    Attributes:
        name: as it is written in results.
        labels: text of each label; ``|`` stands between words.
        files: what it was read from.
        longest: seconds that the model is given at once; longer speech is cut where it is quietest.
    """

    name: str
    labels: tuple[str, ...]
    files: tuple[Path, ...] = ()
    longest: float = 30.0

    @abstractmethod
    def emissions(self, wave: NDArray[np.float32]) -> torch.Tensor:
        """Scores (T, K) of each label in each frame, of a wave (N,) at 16 kHz."""

    @property
    def hears_laughter(self) -> bool:
        """Whether one of the labels is a tag such as ``[laughter]``."""
        return any(_LAUGHTER.fullmatch(label) for label in self.labels)

    def transcribe(self, wave: NDArray[np.float32]) -> str:
        """As :class:`.recognisers.Recogniser` says."""
        pieces = (wave[first:last] for first, last in cut_at_silences(wave, SAMPLE_RATE, self.longest))
        heard = (greedy_text(self.emissions(piece), self.labels) for piece in pieces if is_heard(piece))
        return " ".join(filter(None, heard))


def is_heard(wave: NDArray[np.float32]) -> bool:
    """Whether a wave is long enough to hold anything."""
    return len(wave) >= SHORTEST * SAMPLE_RATE


def normalised(wave: NDArray[np.float32], normalise: bool) -> torch.Tensor:
    """A wave (N,) as a batch of one (1, N), layer-normed where the model wants it so."""
    import torch

    samples = torch.from_numpy(np.ascontiguousarray(wave, np.float32))[None]
    return torch.nn.functional.layer_norm(samples, samples.shape) if normalise else samples


def greedy_text(emissions: torch.Tensor, labels: tuple[str, ...]) -> str:
    """The text of the most likely labels: repetitions joined, then blanks (label 0) left out; ``|`` separates words.

    Args:
        emissions: scores of each frame (T, K).
        labels: K of them.
    """
    best = emissions.argmax(dim=-1).unique_consecutive().tolist()
    return " ".join("".join(labels[index] for index in best if index).replace("|", " ").split())
