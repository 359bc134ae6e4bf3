"""Recognition by any model of transformers' pipeline: Whisper, wav2vec 2.0, HuBERT, WavLM, Parakeet, … ."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.base import SAMPLE_RATE, Recogniser, Transcript, Word
from speechdlm_ext.errors import InputError, one_line


class TransformersASR(Recogniser):
    """A pipeline for ``automatic-speech-recognition``.

    Words have times where the model is a CTC model, or a Whisper whose generation config names its alignment heads.

    Args:
        model: a folder as ``save_pretrained`` writes it, or a name on the Hugging Face hub (downloaded once).

    Raises:
        InputError: transformers is not installed, or the model cannot be loaded.
    """

    kind: ClassVar[str] = "transformers"
    usage: ClassVar[str] = "transformers:FOLDER_OR_NAME"

    def __init__(self, model: str) -> None:
        try:
            import transformers
        except ImportError:
            raise InputError("transformers is not installed: pip install 'speechdlm_ext[hf]'") from None
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.pipeline: Any = transformers.pipeline("automatic-speech-recognition", model=model, device=device)
        except Exception as error:  # of the network, of files, of models for something else
            raise InputError(f"--asr transformers:{model}: it cannot be loaded: {one_line(error)[:300]}") from None
        folder = Path(model)
        self.files = tuple(sorted(path for path in folder.iterdir() if path.is_file())) if folder.is_dir() else ()
        heads = getattr(getattr(self.pipeline.model, "generation_config", None), "alignment_heads", None)
        self._times = "word" if "ctc" in self.pipeline.type or heads else None

    @classmethod
    def from_spec(cls, model: str) -> TransformersASR:
        """See :meth:`Recogniser.from_spec`."""
        if not model:
            raise InputError(f"--asr transformers: expected {cls.usage}")
        return cls(model)

    def recognise(self, wave: NDArray[np.float32]) -> Transcript:
        """See :meth:`Recogniser.recognise`."""
        options = {"return_timestamps": self._times} if self._times else {}
        found = self.pipeline({"raw": np.ascontiguousarray(wave), "sampling_rate": SAMPLE_RATE}, **options)
        words = [
            Word(chunk["text"].strip(), start, len(wave) / SAMPLE_RATE if end is None else end)
            for chunk in found.get("chunks", ())
            for start, end in [chunk["timestamp"]]
            if start is not None and chunk["text"].strip()
        ]
        return Transcript(" ".join(found["text"].split()), tuple(words))
