"""Speech detection by a pipeline of pyannote.audio; written by its documentation, not tried with published weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError, one_line, optional_import
from speechdlm_ext.vad.base import Detector, Speech


@dataclass(frozen=True)
class Pyannote(Detector):
    """a pipeline of pyannote.audio (extra; not tried with published weights).

    ``model`` is a pipeline's name on the Hugging Face hub, or the path of its ``config.yaml``.
    """

    name: ClassVar[str] = "pyannote"
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    model: str = "pyannote/voice-activity-detection"

    def detect(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """See :meth:`Detector.detect`."""
        import torch

        pipeline = _load_pipeline(self.model)
        speech = []
        for channel in torch.as_tensor(wave):
            found = pipeline({"waveform": channel[None], "sample_rate": sample_rate})
            found = getattr(found, "speaker_diarization", found)  # of pipelines for diarization, from 4.0 on
            speech.append([(float(s.start), float(s.end)) for s in found.get_timeline().support()])
        return speech


@lru_cache(maxsize=1)
def _load_pipeline(model: str) -> Any:
    with optional_import("pyannote.audio is not installed", "pyannote", ", or pass --vad silero"):
        from pyannote.audio import Pipeline
    try:
        pipeline = Pipeline.from_pretrained(model)
    except Exception as error:  # of the network, of the hub's licences, of the file
        raise InputError(f"--vad pyannote:{model} cannot be loaded: {one_line(error)[:300]}") from None
    if pipeline is None:  # what it returns where a licence has not been accepted
        raise InputError(f"--vad pyannote:{model}: accept its licence on the Hugging Face hub, and log in there")
    return pipeline
