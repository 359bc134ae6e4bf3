"""Recognisers of speech behind one interface: pocketsphinx, and CTC models of torchaudio's bundles and of fairseq."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError, one_line

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16000  # Hz, of all recognisers here


class Recogniser(Protocol):
    """What understands speech.

    Attributes:
        name: as it is written in results.
    """

    name: str

    def transcribe(self, wave: NDArray[np.float32]) -> str:
        """What is said in ``wave`` (N,), at 16 kHz, full scale at ±1; tags of noises, if any, in brackets."""


class Pocketsphinx:
    """CMU Sphinx with the English model in its package: small, quick to install, and often wrong."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise InputError("pocketsphinx is not installed: pip install 'speechdlm_ext[eval]'") from None
        self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def transcribe(self, wave: NDArray[np.float32]) -> str:
        """As :class:`Recogniser` says."""
        if len(wave) < SAMPLE_RATE // 10:  # less than a phone
            return ""
        samples = np.rint(np.clip(wave, -1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr if found is not None else ""


class TorchaudioCTC:
    """A CTC model of torchaudio's bundles (``WAV2VEC2_ASR_BASE_960H``, …), decoded greedily.

    Args:
        name: of the bundle.
        weights: its weights; by default where torch.hub keeps them. Nothing is downloaded.
    """

    def __init__(self, name: str, weights: str | Path | None = None) -> None:
        import torch
        import torchaudio

        bundle: Any = getattr(torchaudio.pipelines, name, None)
        if not hasattr(bundle, "get_labels"):
            known = [n for n in dir(torchaudio.pipelines) if hasattr(getattr(torchaudio.pipelines, n), "get_labels")]
            raise InputError(f"--asr torchaudio:{name}: no such CTC bundle; there are {', '.join(known)}")
        path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / Path(bundle._path).name
        if not path.is_file():
            raise InputError(
                f"{path}: the weights of {name} are not there; fetch https://download.pytorch.org/torchaudio/models/"
                f"{bundle._path} to it, or pass --asr torchaudio:{name}=FILE"
            )
        self.name = f"torchaudio:{name}"
        self.labels: tuple[str, ...] = bundle.get_labels()
        self._normalise = bool(bundle._normalize_waveform)
        self.model = torchaudio.models.wav2vec2_model(**bundle._params).eval()
        try:
            self.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # of unpickling, of missing and of unexpected names
            raise InputError(f"{path}: not the weights of {name} ({one_line(error)[:300]})") from None

    def transcribe(self, wave: NDArray[np.float32]) -> str:
        """As :class:`Recogniser` says."""
        import torch

        if len(wave) < SAMPLE_RATE // 10:
            return ""
        samples = torch.from_numpy(np.ascontiguousarray(wave, np.float32))[None]
        if self._normalise:
            samples = torch.nn.functional.layer_norm(samples, samples.shape)
        with torch.inference_mode():
            emissions, _ = self.model(samples)
        return greedy_text(emissions[0], self.labels)


def greedy_text(emissions: torch.Tensor, labels: tuple[str, ...]) -> str:
    """The text of the most likely labels: repetitions joined, then blanks (label 0) left out; ``|`` separates words.

    Args:
        emissions: scores of each frame (T, K).
        labels: K of them.
    """
    best = emissions.argmax(dim=-1).unique_consecutive().tolist()
    return " ".join("".join(labels[index] for index in best if index).replace("|", " ").split())


@lru_cache(maxsize=1)
def build_recogniser(spec: str) -> Recogniser:
    """The recogniser that ``--asr`` names.

    ``pocketsphinx``; ``torchaudio:BUNDLE`` or ``torchaudio:BUNDLE=FILE``; ``fairseq:CHECKPOINT`` with its dictionary
    beside it, or ``fairseq:CHECKPOINT=DICTIONARY``.

    Raises:
        InputError: it is unknown, not installed, or its weights are not there.
    """
    kind, _, rest = spec.partition(":")
    if kind == "pocketsphinx" and not rest:
        return Pocketsphinx()
    if kind == "torchaudio" and rest:
        name, _, weights = rest.partition("=")
        return TorchaudioCTC(name, weights or None)
    if kind == "fairseq" and rest:
        from speechdlm_ext.metrics.fairseq_ctc import FairseqCTC

        if "=" in rest and not Path(rest).is_file():
            return FairseqCTC(*rest.rsplit("=", 1))
        return FairseqCTC(rest)
    raise InputError(
        f"--asr {spec}: pocketsphinx, torchaudio:BUNDLE, torchaudio:BUNDLE=FILE, fairseq:CHECKPOINT or "
        "fairseq:CHECKPOINT=DICTIONARY is wanted"
    )


def transcribe_stretches(
    recogniser: Recogniser, wave: NDArray[np.float32], stretches: list[tuple[float, float]], margin: float = 0.1
) -> list[dict[str, Any]]:
    """What is said in each stretch of speech of one channel (N,) at 16 kHz.

    Args:
        recogniser: who listens.
        wave: samples (N,).
        stretches: (start, end) in seconds.
        margin: seconds before and after each stretch that are heard, too.

    Returns:
        ``{"start", "end", "text"}`` of each stretch in which something was understood.
    """
    said = []
    for start, end in stretches:
        first, last = max(0, round((start - margin) * SAMPLE_RATE)), round((end + margin) * SAMPLE_RATE)
        text = recogniser.transcribe(wave[first:last])
        if text:
            said.append({"start": start, "end": end, "text": text})
    return said
