"""Recognition by CMU Sphinx with the English model in its package: small, quick to install, and often wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.base import SAMPLE_RATE, Recogniser, Transcript, Word
from speechdlm_ext.errors import InputError, optional_import

if TYPE_CHECKING:
    import torch

_FRAMES_PER_SECOND = 100
_NO_WORD = ("<", "[", "+")  # of silence and fillers


class Pocketsphinx(Recogniser):
    """pocketsphinx; for tests.

    Args:
        grammar: of the sentences it knows (JSGF); None for its own model of English.

    Raises:
        InputError: it is not installed, or the grammar is missing or invalid.
    """

    kind: ClassVar[str] = "pocketsphinx"
    usage: ClassVar[str] = "pocketsphinx[:GRAMMAR.jsgf]"

    def __init__(self, grammar: Path | None = None) -> None:
        with optional_import("pocketsphinx is not installed", "eval"):
            from pocketsphinx import Decoder
        if grammar is not None and not grammar.is_file():
            raise InputError(f"--asr pocketsphinx:{grammar}: no such file; a grammar (JSGF) is expected")
        self.files = () if grammar is None else (grammar,)
        known = {} if grammar is None else {"jsgf": str(grammar), "lm": None}
        try:
            self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", **known)
        except RuntimeError:
            raise InputError(f"{grammar}: not a grammar (JSGF) of words that pocketsphinx knows") from None

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> Pocketsphinx:
        """See :meth:`Recogniser.from_spec`."""
        return cls(Path(model) if model else None)

    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        """See :meth:`Recogniser.transcribe`."""
        return [self._decode(row[:length].numpy()) for row, length in zip(waves, lengths, strict=True)]

    def _decode(self, wave: NDArray[np.float32]) -> Transcript:
        samples = np.rint(np.clip(wave, -1, 1) * 32767).astype(np.int16)
        self._decoder.reinit_feat()  # or the means of the recordings before would be taken off this one's features
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        if found is None or not found.hypstr:
            return Transcript("")
        words = [
            Word(
                part.word.partition("(")[0],
                part.start_frame / _FRAMES_PER_SECOND,
                (part.end_frame + 1) / _FRAMES_PER_SECOND,
            )
            for part in self._decoder.seg()
            if not part.word.startswith(_NO_WORD)
        ]
        return Transcript(found.hypstr, tuple(words))
