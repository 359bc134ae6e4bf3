"""RTTM: who speaks when, one line per interval of speech, the format of the NIST diarization evaluations."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write


@dataclass(frozen=True)
class SpeakerTurn:
    """One SPEAKER line: ``recording``, ``channel`` (counted from 1), ``start`` and ``duration`` in seconds."""

    recording: str
    channel: int
    start: float
    duration: float
    speaker: str

    @property
    def end(self) -> float:
        """Seconds."""
        return self.start + self.duration


def read_rttm(path: str | os.PathLike[str]) -> list[SpeakerTurn]:
    """Read the SPEAKER lines of an RTTM file; other types, comments (``;;``) and empty lines are skipped.

    Raises:
        InputError: no such file, too few fields, a number that is none, or a negative start or duration; the
            message names the line.
    """
    turns = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                fields = line.split()
                if not fields or fields[0].startswith(";;") or fields[0] != "SPEAKER":
                    continue
                turns.append(_parse(fields, f"{path}, line {number}"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; an RTTM file has lines like SPEAKER call 1 0.5 1.2 …") from None
    return turns


def _parse(fields: list[str], where: str) -> SpeakerTurn:
    if len(fields) < 8:
        raise InputError(f"{where}: {len(fields)} fields, expected at least 8 (SPEAKER file channel start …)")
    try:
        channel, start, duration = int(fields[2]), float(fields[3]), float(fields[4])
    except ValueError:
        raise InputError(f"{where}: channel, start and duration must be numbers, found {fields[2:5]}") from None
    if not (math.isfinite(start) and math.isfinite(duration)) or start < 0 or duration < 0:
        raise InputError(f"{where}: start and duration must be 0 or more, found {fields[3]} and {fields[4]}")
    return SpeakerTurn(fields[1], channel, start, duration, fields[7])


def write_rttm(path: str | os.PathLike[str], turns: Iterable[SpeakerTurn]) -> None:
    """Write SPEAKER lines, atomically; times with 4 decimals.

    Raises:
        InputError: a name holds white space, which the format cannot carry.
    """
    with atomic_write(path) as file:
        for turn in turns:
            for name in (turn.recording, turn.speaker):
                if len(name.split()) != 1:
                    raise InputError(f"{path}: the name {name!r} has white space or is empty; RTTM separates by spaces")
            file.write(
                f"SPEAKER {turn.recording} {turn.channel} {turn.start:.4f} {turn.duration:.4f} "
                f"<NA> <NA> {turn.speaker} <NA> <NA>\n"
            )


def speech_by_speaker(turns: Iterable[SpeakerTurn]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Intervals of speech (start, end) in seconds, by recording and speaker, each list in order of start."""
    speech: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for turn in turns:
        speech.setdefault(turn.recording, {}).setdefault(turn.speaker, []).append((turn.start, turn.end))
    return {name: {who: sorted(parts) for who, parts in speakers.items()} for name, speakers in speech.items()}
