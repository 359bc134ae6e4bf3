"""Speech recognisers behind one interface; ``RECOGNISERS`` is the list of them."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from importlib import metadata
from typing import Any

from speechdlm_ext.asr.base import Recogniser, Transcript, Word, transcribe_intervals
from speechdlm_ext.asr.conv_ctc import ConvCTC
from speechdlm_ext.asr.ctc import FairseqCTC, TorchaudioCTC
from speechdlm_ext.asr.ctc_decoding import BeamOptions
from speechdlm_ext.asr.pocketsphinx import Pocketsphinx
from speechdlm_ext.asr.salm import SALMRecogniser
from speechdlm_ext.asr.transformers import TransformersASR
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import stamp

__all__ = [
    "RECOGNISERS", "Recogniser", "RecogniserOptions", "Transcript", "Word", "build_recogniser", "describe_recogniser",
    "transcribe_intervals",
]  # fmt: skip

RECOGNISERS: dict[str, type[Recogniser]] = {
    kind.kind: kind for kind in (TransformersASR, TorchaudioCTC, FairseqCTC, ConvCTC, SALMRecogniser, Pocketsphinx)
}
USAGE = ", ".join(kind.usage for kind in RECOGNISERS.values())


@dataclass(frozen=True)
class RecogniserOptions:
    """Which recogniser.

    Attributes:
        spec: ``KIND:MODEL``, see ``USAGE``. Empty: none.
        chunk_seconds: that are recognised at once.
        language, prompt: passed to recognisers that take them.
        device: by default a GPU where there is one.
        beam: how recognisers by CTC are decoded; default: greedily.
    """

    spec: str = ""
    chunk_seconds: float = 30.0
    language: str = ""
    prompt: str = ""
    device: str | None = None
    beam: BeamOptions = BeamOptions()

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_seconds < float("inf"):
            raise InputError(f"--asr-chunk-seconds {self.chunk_seconds:g}: expected a finite number of 1 or more")


# The last one that was built, and the state of its files then: weights are read once, and again if they change.
_cached: dict[RecogniserOptions, tuple[Recogniser, list[Any]]] = {}


def build_recogniser(options: RecogniserOptions | str) -> Recogniser:
    """The recogniser that ``--asr`` names.

    Raises:
        InputError: it is unknown or not installed, or its weights are missing or invalid.
    """
    options = RecogniserOptions(options) if isinstance(options, str) else options
    if options in _cached:
        recogniser, files = _cached[options]
        if files == file_stamps(recogniser):
            return recogniser
    _cached.clear()
    kind, _, model = options.spec.partition(":")
    if kind not in RECOGNISERS:
        raise InputError(f"--asr {options.spec}: no such recogniser; expected {USAGE}")
    given = {name: value for name in ("language", "prompt") if (value := getattr(options, name))}
    if refused := sorted(given.keys() - RECOGNISERS[kind].takes):
        raise InputError(f"--{refused[0]} {given[refused[0]]}: the recogniser {kind} takes none")
    recogniser = RECOGNISERS[kind].from_spec(model, options.device, **given)
    recogniser.chunk_seconds = options.chunk_seconds
    if options.beam.searches:
        recogniser.search_with(options.beam)
    _cached[options] = recogniser, file_stamps(recogniser)
    return recogniser


def describe_recogniser(options: RecogniserOptions) -> list[Any] | None:
    """What its words depend on, as plain values; None for none.

    Raises:
        InputError: as :func:`build_recogniser`.
    """
    if not options.spec:
        return None
    ours = options.spec.partition(":")[0] == Pocketsphinx.kind  # its weights come with it
    version = metadata.version("pocketsphinx") if ours else ""
    passed: list[Any] = [one for one in (options.language, options.prompt) if one]
    passed += [list(astuple(options.beam))] if options.beam.searches else []
    return [options.spec, options.chunk_seconds, version, file_stamps(build_recogniser(options)), *passed]


def file_stamps(recogniser: Recogniser) -> list[Any]:
    """Path, size and time of each file, by which a changed recogniser is noticed."""
    return [[str(path.absolute()), *stamp(str(path))] for path in recogniser.files]
