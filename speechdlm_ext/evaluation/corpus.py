"""The dialogues of a corpus: a folder, a manifest, a unit file, an RTTM file or a single recording."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.readers import SUFFIXES
from speechdlm_ext.io.recordings import audio_paths, read_manifest, recording_blocks
from speechdlm_ext.io.rttm import read_rttm
from speechdlm_ext.units.files import expand_durations, read_unit_file, row_channels, row_units

if TYPE_CHECKING:
    import torch

# The ends of the names of two mono files of one dialogue, after a separator. Numbers are pairs only where the user says
# so: lecture_1 and lecture_2 are two recordings.
PAIRS = (("a", "b"), ("left", "right"), ("l", "r"))
NUMBERED_PAIRS = (("0", "1"), ("1", "2"), ("ch0", "ch1"), ("ch1", "ch2"))
INPUT_OUTPUT = ("input.wav", "output.wav")  # user and model, in a folder of their own
_CHANNEL = re.compile(r"^(.+)[-_. ]([a-z0-9]+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Dialogue:
    """One dialogue, not yet measured.

    Attributes:
        name: unique in its corpus.
        files: its audio: one file with all channels, or one for each; none for units and RTTM alone.
        units: the frame-level units (T,) of each channel; empty where there are none.
        frame_rate: of the units, in Hz.
        row: its row in a manifest or a unit file.
    """

    name: str
    files: tuple[str, ...] = ()
    units: tuple[NDArray[np.int32], ...] = field(default=(), compare=False)
    frame_rate: float = 0.0
    row: Mapping[str, Any] = field(default_factory=dict)


def dialogue_blocks(dialogue: Dialogue, sample_rate: int) -> Iterator[torch.Tensor]:
    """The audio of a dialogue in blocks (C, n) at ``sample_rate`` Hz; see :func:`.recording_blocks`."""
    files = list(dialogue.files)
    return recording_blocks({"audio_filepath": files if len(files) > 1 else files[0]}, sample_rate)


@dataclass
class Corpus:
    """Dialogues in order of their names, and what was skipped: (name, reason)."""

    path: Path
    dialogues: list[Dialogue]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def names(self) -> list[str]:
        """Of the dialogues."""
        return [dialogue.name for dialogue in self.dialogues]


def read_corpus(path: str | os.PathLike[str], frame_rate: float = 50.0, mono_pairs: bool = False) -> Corpus:
    """Find the dialogues of a corpus.

    * A folder: every recording below it; two mono files whose names differ in their ends (``-A``/``-B``, ``_left``/
      ``_right``), or are ``input.wav`` and ``output.wav``, are the two channels of one dialogue.
    * ``*.jsonl``: a manifest (``audio_filepath``: a file, or a list of one mono file for each channel) or a unit file.
    * ``*.rttm``: each recording in it, as long as its last speech.
    * An audio file.

    Args:
        path: of these.
        frame_rate: of units whose file does not say.
        mono_pairs: names that end in numbers (``-1``/``-2``, ``_ch0``/``_ch1``) are pairs, too.

    Raises:
        InputError: there is no such file, or nothing in it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        corpus = _read_folder(path, (*PAIRS, *NUMBERED_PAIRS) if mono_pairs else PAIRS)
    elif path.suffix.lower() == ".rttm":
        names = dict.fromkeys(turn.recording for turn in read_rttm(path))
        corpus = Corpus(path, [Dialogue(name) for name in names])
    elif path.suffix.lower() in SUFFIXES:
        corpus = Corpus(path, [Dialogue(path.stem, (str(path),))])
    else:
        corpus = _read_rows(path, frame_rate)
    if not corpus.dialogues:
        why = f"; the first that was skipped: {corpus.skipped[0][1]}" if corpus.skipped else ""
        raise InputError(f"{path} has no dialogues ({', '.join(SUFFIXES)}, a manifest or a unit file is expected){why}")
    corpus.dialogues.sort(key=lambda dialogue: dialogue.name)
    return corpus


def _read_folder(folder: Path, pairs: Sequence[tuple[str, str]]) -> Corpus:
    corpus = Corpus(folder, [])
    mono: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        try:
            channels = audio_info(path).channels
        except InputError as error:
            corpus.skipped.append((_name(folder, path), one_line(error)))
            continue
        match = _CHANNEL.match(path.stem) if channels == 1 else None
        if channels == 1 and path.name in INPUT_OUTPUT:
            mono.setdefault((path.parent.parent, path.parent.name), {})[path.stem] = path
        elif match:
            mono.setdefault((path.parent, match[1]), {})[match[2].lower()] = path
        else:
            corpus.dialogues.append(Dialogue(_name(folder, path), (str(path),)))
    for (parent, stem), sides in mono.items():
        if tuple(sorted(sides)) in (*pairs, ("input", "output")):
            files = tuple(str(sides[side]) for side in sorted(sides))
            corpus.dialogues.append(Dialogue(_name(folder, parent / f"{stem}.wav"), files))
        else:
            corpus.dialogues += [Dialogue(_name(folder, p), (str(p),)) for p in sides.values()]
    _distinguish(corpus)
    return corpus


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _distinguish(corpus: Corpus) -> None:
    """Files that differ in their suffix alone keep it in their names."""
    counts: dict[str, int] = {}
    for dialogue in corpus.dialogues:
        counts[dialogue.name] = counts.get(dialogue.name, 0) + 1
    corpus.dialogues = [
        dialogue
        if counts[dialogue.name] == 1
        else Dialogue(dialogue.name + Path(dialogue.files[0]).suffix, dialogue.files)
        for dialogue in corpus.dialogues
    ]


def _read_rows(path: Path, frame_rate: float) -> Corpus:
    try:
        first = next(iter(read_jsonl(path)), {})
    except InputError:
        first = {}  # the lines of the public release's unit files are no JSON
    if "audio_filepath" in first:
        rows = read_manifest(path, excerpts=False)
        return Corpus(path, [Dialogue(row["id"], tuple(audio_paths(row)), row=row) for row in rows])
    corpus = Corpus(path, [])
    seen: set[str] = set()
    for row in read_unit_file(path):
        name = str(row.get("audio", ""))
        try:
            if not name or name in seen:
                raise InputError(f"the name {name!r} must be text that no other row has")
            whole = expand_durations(row)
            units = row_units(whole, row_channels(whole))
            rate = row.get("frame_rate") or frame_rate
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
                raise InputError(f"expected a frame_rate in Hz, more than 0, found {rate!r}")
        except InputError as error:
            corpus.skipped.append((name, one_line(error)))
            continue
        seen.add(name)
        arrays = tuple(np.asarray(channel, np.int32) for channel in units)
        corpus.dialogues.append(Dialogue(name, (), arrays, float(rate), _without_units(row)))
    return corpus


def add_units(corpus: Corpus, path: Path, frame_rate: float = 50.0) -> None:
    """Give the dialogues of a corpus of audio the units of a unit file, whose rows have their names.

    Those that get none, and rows that cannot be read, are named in ``skipped``.

    Args:
        corpus: whose dialogues are replaced.
        path: of the unit file.
        frame_rate: in Hz, of rows that do not say.

    Raises:
        InputError: there is no such file, or it has no units of any of them.
    """
    found = _read_rows(path, frame_rate)
    rows = {dialogue.name: dialogue for dialogue in found.dialogues if dialogue.units}
    corpus.skipped += found.skipped
    for place, dialogue in enumerate(corpus.dialogues):
        own = rows.get(dialogue.name, rows.get(Path(dialogue.name).name))
        if own is None:
            corpus.skipped.append((dialogue.name, f"{path} has no units of it; its audio is measured"))
        else:
            corpus.dialogues[place] = replace(dialogue, units=own.units, frame_rate=own.frame_rate)
    if not any(dialogue.units for dialogue in corpus.dialogues):
        first, other = corpus.dialogues[0].name, next(iter(rows), "nothing")
        raise InputError(f"{path} has no units of {corpus.path}: expected a row {first}, found {other}")


def _without_units(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("unit")}


def unmatched_names(generated: Sequence[str], reference: Sequence[str]) -> dict[str, list[str]] | None:
    """Names that one corpus has and the other has not; None where they have none in common and are not meant to."""
    mine, theirs = set(generated), set(reference)
    if not mine & theirs:
        return None
    return {"generated": sorted(mine - theirs), "reference": sorted(theirs - mine)}
