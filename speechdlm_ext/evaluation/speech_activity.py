"""Where speech activity comes from, by name: silero, energy, units, rttm, or a field of the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import Corpus, Dialogue
from speechdlm_ext.io.rttm import SpeakerTurn, read_rttm, speech_by_speaker
from speechdlm_ext.metrics.intervals import Interval
from speechdlm_ext.vad import energy as activity
from speechdlm_ext.vad import silero
from speechdlm_ext.vad.units import UnitActivityOptions, detect_speech_units, find_silence_units

METHODS = ("silero", "energy", "units", "rttm", "field")
Speech = list[list[Interval]]


@dataclass(frozen=True)
class Detection:
    """A way to find speech.

    Attributes:
        method: of ``METHODS``.
        frame_shift: seconds between two decisions; None where somebody else has decided.
        options: of the detector, plain values.
        silence: units that are silence, where ``method`` is units.
        given: speech by corpus and dialogue, where it is known beforehand.
        speakers: names of the channels, likewise, where they are known; empty for one without.
    """

    method: str
    frame_shift: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    silence: tuple[int, ...] = ()
    given: Mapping[tuple[str, str], Speech] = field(default_factory=dict)
    speakers: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What results say about it."""
        found: dict[str, Any] = {"method": self.method, "frame_shift": self.frame_shift, "options": dict(self.options)}
        if self.method == "units":
            found["silence_units"] = list(self.silence)
        return found

    def listen(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """Speech of each channel of (C, N), full scale ±1."""
        if self.method == "silero":
            return silero.detect_speech_silero(wave, sample_rate, silero.SileroOptions(**self.options))
        if self.method == "energy":
            options = activity.ActivityOptions(**self.options)
            return activity.detect_speech_of_channels(wave, sample_rate, options)
        raise ValueError(f"{self.method} does not listen")

    def read_units(self, dialogue: Dialogue) -> Speech:
        """Speech of each channel, from its units."""
        options = UnitActivityOptions(**self.options)
        return [detect_speech_units(u, dialogue.frame_rate, self.silence, options) for u in dialogue.units]


def choose_detection(
    method: str | None,
    corpora: Mapping[str, Corpus],
    rttm: Sequence[Path] = (),
    silence_units: Sequence[int] = (),
) -> Detection:
    """The way that ``--vad`` names.

    Args:
        method: of ``METHODS``, ``field:NAME`` for another field than ``speech``; None is silero, or units where all
            corpora are unit files, or rttm where all are RTTM files.
        corpora: generated, and perhaps reference.
        rttm: files; by default those in, beside or of the corpora.
        silence_units: where empty, they are found in the reference, or else in what was generated.

    Raises:
        InputError: an unknown method, or one that the corpora have nothing for.
    """
    dialogues = [(side, dialogue) for side, corpus in corpora.items() for dialogue in corpus.dialogues]
    if method is None:
        method = "silero"
        if all(dialogue.units and not dialogue.files for _, dialogue in dialogues):
            method = "units"
        elif all(corpus.path.suffix.lower() == ".rttm" for corpus in corpora.values()):
            method = "rttm"
    name, _, rest = method.partition(":")
    if name not in METHODS or (rest and name != "field"):
        raise InputError(f"--vad {method}: one of {', '.join(METHODS)} is wanted (field:NAME names a field)")
    if name == "units":
        return _by_units(corpora, silence_units)
    if name == "rttm":
        given, speakers = _from_rttm(corpora, rttm)
        return Detection("rttm", given=given, speakers=speakers)
    if name == "field":
        given = {(side, dialogue.name): _from_field(dialogue, rest or "speech") for side, dialogue in dialogues}
        return Detection(f"field:{rest or 'speech'}", given=given)
    for side, dialogue in dialogues:
        if not dialogue.files:
            wanted = "units" if dialogue.units else "rttm"
            raise InputError(f"{corpora[side].path}, {dialogue.name}: no sound to listen to: pass --vad {wanted}")
    if name == "silero":
        silero.load_network()  # says at once where it is not installed
        return Detection("silero", silero.FRAME_SHIFT, asdict(silero.SileroOptions()))
    return Detection("energy", activity.FRAME_SHIFT, asdict(activity.ActivityOptions()))


def _by_units(corpora: Mapping[str, Corpus], silence: Sequence[int]) -> Detection:
    rates: set[float] = set()
    books: set[str] = set()
    for corpus in corpora.values():
        for dialogue in corpus.dialogues:
            if not dialogue.units:
                raise InputError(
                    f"{corpus.path}, {dialogue.name}: no units; --vad units wants unit files, or --units beside sound"
                )
            rates.add(dialogue.frame_rate)
            books.add(str(dialogue.row.get("codebook", "")))
    if len(rates) > 1 or len(books - {""}) > 1:
        what = "frame rates" if len(rates) > 1 else "codebooks"
        raise InputError(f"units of different {what} cannot be compared: {sorted(rates if len(rates) > 1 else books)}")
    if not silence:
        source = corpora.get("reference") or corpora["generated"]
        silence = find_silence_units([u for dialogue in source.dialogues for u in dialogue.units], rates.pop())
        rates = {source.dialogues[0].frame_rate}
    options = asdict(UnitActivityOptions())
    return Detection("units", 1 / rates.pop(), options, tuple(silence))


def _from_rttm(
    corpora: Mapping[str, Corpus], paths: Sequence[Path]
) -> tuple[dict[tuple[str, str], Speech], dict[tuple[str, str], list[str]]]:
    """Speech of each dialogue, and the names of who speaks on each of its channels."""
    given: dict[tuple[str, str], Speech] = {}
    speakers: dict[tuple[str, str], list[str]] = {}
    for side, corpus in corpora.items():
        found = list(paths) or _rttm_of(corpus.path)
        if not found:
            raise InputError(f"{corpus.path}: no RTTM file in or beside it: pass --rttm FILE")
        turns: dict[str, list[SpeakerTurn]] = {}
        for turn in (turn for path in found for turn in read_rttm(path)):
            turns.setdefault(turn.recording, []).append(turn)
        for dialogue in corpus.dialogues:
            own = turns.get(dialogue.name) or turns.get(Path(dialogue.name).name)
            if own is not None:
                given[side, dialogue.name], speakers[side, dialogue.name] = _by_channel(own)
    return given, speakers


def _by_channel(turns: list[SpeakerTurn]) -> tuple[Speech, list[str]]:
    """Speech and name of each channel where every person has one alone, else of each person, first speaker first."""
    (people,) = speech_by_speaker(turns).values()
    channels = {(turn.speaker, turn.channel) for turn in turns}
    numbers = {channel for _, channel in channels}
    if len(channels) == len(people) == len(numbers) and min(numbers) >= 1 and max(numbers) > 1:
        names = {channel: speaker for speaker, channel in channels}
        order = [names.get(channel, "") for channel in range(1, max(numbers) + 1)]
    else:
        order = sorted(people, key=lambda name: (people[name], name))
    return [people[name] if name else [] for name in order], order


def _rttm_of(path: Path) -> list[Path]:
    if path.suffix.lower() == ".rttm":
        return [path]
    inside = sorted((path if path.is_dir() else path.parent).glob("*.rttm"))
    beside = path.with_name(path.name + ".rttm") if path.is_dir() else path.with_suffix(".rttm")
    return inside or ([beside] if beside.is_file() else [])


def _from_field(dialogue: Dialogue, name: str) -> Speech:
    value = dialogue.row.get(name)
    where = f"{dialogue.name}, field {name}"
    if value is None:
        raise InputError(f"{where} is missing: a manifest row with [[[start, end], …] for each channel] is wanted")
    try:
        speech = [[(float(start), float(end)) for start, end in channel] for channel in value]
    except (TypeError, ValueError):
        raise InputError(f"{where}: [[[start, end], …] for each channel] in seconds is wanted") from None
    for start, end in (pair for channel in speech for pair in channel):
        if not (np.isfinite(start) and np.isfinite(end)) or start < 0 or end < start:
            raise InputError(f"{where}: 0 ≤ start ≤ end is wanted, found {start:g} and {end:g}")
    return speech
