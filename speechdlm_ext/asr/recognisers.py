"""Recognisers of speech behind one interface: pocketsphinx, and CTC models of torchaudio's bundles and of fairseq."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.chunks import cut_at_silences
from speechdlm_ext.asr.ctc import SAMPLE_RATE, is_heard
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import stamp


class Recogniser(Protocol):
    """What understands speech.

    Attributes:
        name: as it is written in results.
        files: what it was read from.
        longest: seconds that are understood at once; longer speech is cut where it is quietest.
        hears_laughter: whether it has a tag for it.
    """

    name: str
    longest: float

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def hears_laughter(self) -> bool: ...

    def transcribe(self, wave: NDArray[np.float32]) -> str:
        """What is said in ``wave`` (N,), at 16 kHz, full scale at ±1; tags of noises, if any, in brackets."""


class Pocketsphinx:
    """CMU Sphinx with the English model in its package: small, quick to install, and often wrong."""

    name = "pocketsphinx"
    files = ()
    longest = 30.0
    hears_laughter = False  # its dictionary has [NOISE] and [SPEECH] alone, and results leave them out

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise InputError("pocketsphinx is not installed: pip install 'speechdlm_ext[eval]'") from None
        self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def transcribe(self, wave: NDArray[np.float32]) -> str:
        """As :class:`Recogniser` says."""
        pieces = (wave[first:last] for first, last in cut_at_silences(wave, SAMPLE_RATE, self.longest))
        return " ".join(filter(None, (self._hear(piece) for piece in pieces if is_heard(piece))))

    def _hear(self, wave: NDArray[np.float32]) -> str:
        samples = np.rint(np.clip(wave, -1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr if found is not None else ""


@dataclass(frozen=True)
class RecogniserOptions:
    """Who listens.

    Attributes:
        spec: ``pocketsphinx``; ``torchaudio:BUNDLE`` or ``torchaudio:BUNDLE=FILE``; ``fairseq:CHECKPOINT`` with its
            dictionary beside it, or ``fairseq:CHECKPOINT=DICTIONARY``. Empty: nobody.
        longest: seconds that are understood at once.
    """

    spec: str = ""
    longest: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.longest < float("inf"):
            raise InputError(f"--asr-seconds {self.longest:g}: a finite number of seconds, 1 or more, is wanted")


# The last one that was built, and the state of its files then: weights are read once, and again if they change.
_kept: dict[RecogniserOptions, tuple[Recogniser, list[Any]]] = {}


def build_recogniser(options: RecogniserOptions | str) -> Recogniser:
    """The recogniser that ``--asr`` names.

    Raises:
        InputError: it is unknown, not installed, or its weights are not there.
    """
    options = RecogniserOptions(options) if isinstance(options, str) else options
    if options in _kept:
        recogniser, files = _kept[options]
        if files == file_stamps(recogniser):
            return recogniser
    _kept.clear()
    recogniser = _build(options.spec)
    recogniser.longest = options.longest
    _kept[options] = recogniser, file_stamps(recogniser)
    return recogniser


def _build(spec: str) -> Recogniser:
    kind, _, rest = spec.partition(":")
    if kind == "pocketsphinx" and not rest:
        return Pocketsphinx()
    if kind == "torchaudio" and rest:
        from speechdlm_ext.asr.torchaudio_ctc import TorchaudioCTC

        name, _, weights = rest.partition("=")
        return TorchaudioCTC(name, weights or None)
    if kind == "fairseq" and rest:
        from speechdlm_ext.asr.fairseq_ctc import FairseqCTC

        if "=" in rest and not Path(rest).is_file():
            return FairseqCTC(*rest.rsplit("=", 1))
        return FairseqCTC(rest)
    raise InputError(
        f"--asr {spec}: pocketsphinx, torchaudio:BUNDLE, torchaudio:BUNDLE=FILE, fairseq:CHECKPOINT or "
        "fairseq:CHECKPOINT=DICTIONARY is wanted"
    )


def describe_recogniser(options: RecogniserOptions) -> list[Any] | None:
    """What its words depend on, as plain values; None for nobody.

    Raises:
        InputError: as :func:`build_recogniser`.
    """
    if not options.spec:
        return None
    packed = metadata.version("pocketsphinx") if options.spec == "pocketsphinx" else ""  # its weights come with it
    return [options.spec, options.longest, packed, file_stamps(build_recogniser(options))]


def file_stamps(recogniser: Recogniser) -> list[Any]:
    """Path, size and time of each file: by these one sees that it still is the same recogniser."""
    return [[str(path.absolute()), *stamp(str(path))] for path in recogniser.files]


def transcribe_stretches(
    recogniser: Recogniser, wave: NDArray[np.float32], stretches: list[tuple[float, float]], margin: float = 0.1
) -> list[dict[str, Any]]:
    """What is said in each stretch of speech of one channel (N,) at 16 kHz.

    Args:
        recogniser: who listens.
        wave: samples (N,).
        stretches: (start, end) in seconds, in order.
        margin: seconds before and after each stretch that are heard, too, as far as there is silence between it and
            the next one.

    Returns:
        ``{"start", "end", "text"}`` of each stretch, or piece of a long one, in which something was understood.
    """
    said = []
    ends = [0.0, *(end for _, end in stretches)]
    starts = [*(start for start, _ in stretches), len(wave) / SAMPLE_RATE]
    for number, (start, end) in enumerate(stretches):
        before = min(margin, max(0.0, start - ends[number]) / (2 if number else 1))
        after = min(margin, max(0.0, starts[number + 1] - end) / (2 if number + 1 < len(stretches) else 1))
        origin, last = round((start - before) * SAMPLE_RATE), round((end + after) * SAMPLE_RATE)
        for a, b in cut_at_silences(wave[origin:last], SAMPLE_RATE, recogniser.longest):
            text = recogniser.transcribe(wave[origin + a : origin + b])
            if text:
                first, final = max(start, (origin + a) / SAMPLE_RATE), min(end, (origin + b) / SAMPLE_RATE)
                said.append({"start": first, "end": final, "text": text})
    return said
