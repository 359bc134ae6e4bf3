"""Which detector finds the speech of corpora, and what is known of it without the audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import Corpus, Dialogue, dialogue_blocks
from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.metrics.signal import short_time_power
from speechdlm_ext.vad import Annotation, Detector, Speech, build_detector
from speechdlm_ext.vad.rttm import FRAME_SHIFT, RTTM, order_by_level
from speechdlm_ext.vad.silero import Silero, load_network
from speechdlm_ext.vad.units import Units, find_silence_units


@dataclass(frozen=True)
class Detection:
    """A detector, and the speech that is known before any audio is read.

    Attributes:
        detector: of speech.
        frame_shift: seconds between two decisions; None where there are no frames.
        given: what it read from units or annotation, by corpus and dialogue.
    """

    detector: Detector
    frame_shift: float | None = None
    given: Mapping[tuple[str, str], Annotation] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What is written to results about it."""
        return {"method": self.detector.name, "frame_shift": self.frame_shift, "options": asdict(self.detector)}


def choose_detection(
    spec: str | None,
    corpora: Mapping[str, Corpus],
    rttm: Sequence[Path] = (),
    silence_units: Sequence[int] = (),
) -> Detection:
    """The detector that ``--vad`` names, made ready for the corpora.

    Args:
        spec: as :func:`speechdlm_ext.vad.build_detector` takes it; None is silero, or units where all corpora are unit
            files, or rttm where all are RTTM files.
        corpora: ``generated``, and perhaps ``reference``.
        rttm: files; by default those in, beside or of the corpora.
        silence_units: where empty, they are found in the reference, or else in what was generated.

    Raises:
        InputError: an unknown detector, or one that the corpora have nothing for.
    """
    dialogues = [(side, dialogue) for side, corpus in corpora.items() for dialogue in corpus.dialogues]
    if spec is None:
        spec = "silero"
        if all(dialogue.units and not dialogue.files for _, dialogue in dialogues):
            spec = "units"
        elif all(corpus.path.suffix.lower() == ".rttm" for corpus in corpora.values()):
            spec = "rttm"
    detector = build_detector(spec)
    if isinstance(detector, Units):
        detector, frame_shift = _with_silence(detector, corpora, silence_units)
        return Detection(detector, frame_shift, _read(dict.fromkeys(corpora, detector), corpora))
    if isinstance(detector, RTTM):
        by_corpus = {}
        for side, corpus in corpora.items():
            files = detector.files or tuple(map(str, rttm)) or tuple(map(str, _rttm_of(corpus.path)))
            if not files:
                raise InputError(f"{corpus.path}: no RTTM file in or beside it: pass --rttm FILE")
            by_corpus[side] = replace(detector, files=files)
        return Detection(detector, None, _read(by_corpus, corpora))
    if detector.reads != "audio":
        return Detection(detector, None, _read(dict.fromkeys(corpora, detector), corpora))
    for side, dialogue in dialogues:
        if not dialogue.files:
            other = "units" if dialogue.units else "rttm"
            raise InputError(f"{corpora[side].path}, {dialogue.name}: it has no audio: pass --vad {other}")
    if isinstance(detector, Silero):
        load_network()  # raises at once where the package is not installed
    return Detection(detector, detector.frame_shift)


def _read(detectors: Mapping[str, Detector], corpora: Mapping[str, Corpus]) -> dict[tuple[str, str], Annotation]:
    found = {}
    for side, corpus in corpora.items():
        for dialogue in corpus.dialogues:
            own = detectors[side].read(dialogue.name, dialogue.row, dialogue.units, dialogue.frame_rate)
            if own is not None:
                found[side, dialogue.name] = own
    return found


def _with_silence(detector: Units, corpora: Mapping[str, Corpus], silence: Sequence[int]) -> tuple[Units, float]:
    """The detector with its silence units, and seconds between two units."""
    rates: set[float] = set()
    books: set[str] = set()
    for corpus in corpora.values():
        for dialogue in corpus.dialogues:
            if not dialogue.units:
                raise InputError(
                    f"{corpus.path}, {dialogue.name}: no units; --vad units needs unit files, or --units beside audio"
                )
            rates.add(dialogue.frame_rate)
            books.add(str(dialogue.row.get("codebook", "")))
    if len(rates) > 1 or len(books - {""}) > 1:
        what, found = ("frame rates", sorted(rates)) if len(rates) > 1 else ("codebooks", sorted(books))
        raise InputError(f"units of different {what} cannot be compared: {found}")
    (rate,) = rates
    silence = tuple(silence) or detector.silence
    if not silence:
        source = corpora.get("reference") or corpora["generated"]
        silence = find_silence_units([u for dialogue in source.dialogues for u in dialogue.units], rate)
    return replace(detector, silence=tuple(silence)), 1 / rate


def _rttm_of(path: Path) -> list[Path]:
    if path.suffix.lower() == ".rttm":
        return [path]
    inside = sorted((path if path.is_dir() else path.parent).glob("*.rttm"))
    beside = path.with_name(path.name + ".rttm") if path.is_dir() else path.with_suffix(".rttm")
    return inside or ([beside] if beside.is_file() else [])


def order_by_channel(dialogue: Dialogue, given: Annotation) -> Annotation:
    """The speech of each channel of a dialogue's audio, where only that of each speaker is known.

    Audio of one channel, or of fewer channels than speakers, has everybody on every channel: their order is free.

    Raises:
        InputError: the channels do not tell the speakers apart.
    """
    channels = sum(audio_info(file).channels for file in dialogue.files)
    if given.by_channel or channels < 2 or len(given.speech) > channels:
        return given
    rate = audio_info(dialogue.files[0]).sample_rate
    blocks = [
        [short_time_power(channel, rate, FRAME_SHIFT) for channel in block.numpy()]
        for block in dialogue_blocks(dialogue, rate)  # of whole seconds, so that frames go on from block to block
    ]
    powers = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    found = order_by_level(given.speech, powers) if given.speech else []
    if found is None:
        raise InputError(
            f"{dialogue.name}: its {channels} channels do not tell which is which of the RTTM's speakers "
            f"{', '.join(given.speakers)}: give their order in the manifest "
            '("speakers": [label of the first channel, …]), or number their channels in the RTTM'
        )
    speech: Speech = [[] for _ in range(channels)]
    speakers = [""] * channels
    for number, channel in enumerate(found):
        speech[channel], speakers[channel] = given.speech[number], given.speakers[number]
    return Annotation(speech, speakers)
