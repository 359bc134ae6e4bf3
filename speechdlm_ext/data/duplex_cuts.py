"""Recordings of a user and an agent with what is said in them: JSON lines of our own, or cuts of lhotse."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.data.text_channel import Turn
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import recording_blocks, recording_size
from speechdlm_ext.io.shar import iter_cuts, parse_part
from speechdlm_ext.units.files import parse_units


@dataclass(frozen=True)
class DuplexCut:
    """A conversation.

    Attributes:
        id: its name.
        duration: in seconds.
        source: of the user's sound, a row as :func:`.recording_blocks` reads it.
        target: of the agent's sound; ``None`` where there is none.
        turns: what both say.
        codes: of the agent's sound by an audio codec ``(T, K)``, where the file has them.
        codec_rate: frames of ``codes`` per second.
        where: file and line, for messages.
    """

    id: str
    duration: float
    source: Mapping[str, Any]
    target: Mapping[str, Any] | None
    turns: tuple[Turn, ...]
    codes: Tensor | None
    codec_rate: float | None
    where: str

    def target_text(self, roles: Any) -> str:
        """What the speakers of some roles say, in one line."""
        return " ".join(turn.text for turn in self.turns if turn.speaker in roles)


def read_cuts(path: str | os.PathLike[str]) -> list[DuplexCut]:
    """Read a file of conversations, perhaps with ``.gz``, or a SHAR folder of lhotse.

    A line is a cut of lhotse (``MonoCut``: ``recording`` is the user's, ``custom.target_audio`` the agent's), or::

        {"id": …, "audio_filepath": …, "duration": …, "supervisions": [{"start", "duration", "text", "speaker"}, …]}

    where ``audio_filepath`` is a stereo file or two files, the user's channel first (``"agent_channel": 0`` for the
    other order), or the user's alone with ``target_audio_filepath`` for the agent's. ``offset`` makes it a part of the
    recording. ``codec`` is the agent's sound as codes, "12 7 …" for each codebook, at ``codec_rate`` per second.
    Relative paths are taken as they are, then from the file's folder.

    Raises:
        InputError: the file is missing or empty, or a line lacks a field or has one of another form.
    """
    cuts = [cut_of_row(line.row, f"{path}, line {line.number}", os.fspath(path)) for line in iter_cuts(path)]
    if not cuts:
        raise InputError(f"{path}: no conversations in it")
    return cuts


def read_sound(row: Mapping[str, Any], sample_rate: int) -> Tensor:
    """The sound of one side of a cut, ``(N,)`` at ``sample_rate`` Hz."""
    wave = torch.cat(list(recording_blocks(row, sample_rate)), 1)
    if len(wave) != 1:
        raise InputError(f"{row['audio_filepath']} has {len(wave)} channels, 1 is expected for one side")
    return wave[0]


def cut_of_row(row: Mapping[str, Any], where: str = "a cut", path: str = "") -> DuplexCut:
    """One line of :func:`read_cuts`, which was read from ``path``."""
    is_lhotse = "recording" in row
    name = str(row.get("id", where))
    turns = tuple(_turn(entry, where) for entry in row.get("supervisions") or ())
    source, target = _lhotse_sides(row, where, path) if is_lhotse else _own_sides(row, where, path)
    duration = row.get("duration")
    if duration is None:
        duration = recording_size(source)[0]
    seconds = _number(duration, "duration", where)
    return DuplexCut(name, seconds, source, target, turns, _codes(row, where), row.get("codec_rate"), where)


def _own_sides(row: Mapping[str, Any], where: str, path: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    audio, agent = row.get("audio_filepath"), row.get("agent_channel", 1)
    if agent not in (0, 1):
        raise InputError(f'{where}: "agent_channel": {agent!r}, expected 0 or 1')
    part = {key: row[key] for key in ("offset", "duration", "sample_rate") if row.get(key) is not None}
    other = row.get("target_audio_filepath")
    if isinstance(audio, list) and len(audio) == 2 and other is None:
        audio, other = audio[1 - agent], audio[agent]
    if not isinstance(audio, str):
        raise InputError(f"{where}: audio_filepath is missing, or neither one file nor two")
    source = {**part, "audio_filepath": _found(audio, path)}
    if other is not None:
        part.pop("sample_rate", None)
        return source, {**part, "audio_filepath": _found(other, path)}
    if recording_size(source)[1] != 2:
        return source, None
    return {**source, "channel_selector": 1 - agent}, {**source, "channel_selector": agent}


def _lhotse_sides(row: Mapping[str, Any], where: str, path: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    target = (row.get("custom") or {}).get("target_audio")
    source = _lhotse_recording(row["recording"], row, row.get("channel", 0), where, path)
    if target is None:
        return source, None
    return source, _lhotse_recording(target, row, 0, where, path)


def _lhotse_recording(recording: Any, cut: Mapping[str, Any], channel: Any, where: str, path: str) -> dict[str, Any]:
    """A recording of lhotse as a row; a cut that is a part of it gets its offset."""
    sources = recording.get("sources") if isinstance(recording, Mapping) else None
    if not sources:
        raise InputError(f'{where}: the recording has no "sources": [{{"type", "channels", "source"}}]')
    for entry in sources:
        if channel not in entry.get("channels", [0]) and len(sources) > 1:
            continue
        if entry.get("type") != "file":
            raise InputError(
                f"{where}: a source of type {entry.get('type')!r}, expected file: export the cuts with audio files"
            )
        made = {"audio_filepath": _found(entry.get("source"), path), "sample_rate": recording.get("sampling_rate")}
        channels = entry.get("channels", [0])
        if len(channels) > 1:
            made["channel_selector"] = channels.index(channel)
        start = float(cut.get("start") or 0.0)
        whole = recording.get("duration")
        duration = cut.get("duration")
        if start or duration is not None and whole is not None and duration < whole:
            made |= {"offset": start, "duration": duration}
        return made
    raise InputError(f"{where}: the recording has no channel {channel}")


def _found(file: Any, path: str) -> str:
    """Where an audio file is: as written, or beside the manifest."""
    if not isinstance(file, str) or not file:
        raise InputError(f"{path}: {file!r} is not the path of an audio file")
    return (
        file if os.path.exists(file) or parse_part(file) else os.path.join(os.path.dirname(os.path.abspath(path)), file)
    )


def _turn(entry: Any, where: str) -> Turn:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: a supervision is {type(entry).__name__}, expected an object")
    times = [_number(entry.get(key), f"supervision's {key}", where) for key in ("start", "duration")]
    return Turn(times[0], times[1], str(entry.get("text") or ""), str(entry.get("speaker")))


def _number(value: Any, what: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise InputError(f"{where}: the {what} is {value!r}, expected {'a number' if 'rate' in what else 'seconds'}")
    return float(value)


def _codes(row: Mapping[str, Any], where: str) -> Tensor | None:
    rows = row.get("codec")
    if rows is None:
        return None
    if not row.get("codec_rate"):
        raise InputError(f"{where}: codec without codec_rate, its frames per second")
    if _number(row["codec_rate"], "codec_rate", where) <= 0:
        raise InputError(f"{where}: codec_rate {row['codec_rate']}: frames per second are expected")
    try:
        books = [torch.tensor(parse_units(text)) for text in ([rows] if isinstance(rows, str) else rows)]
    except (InputError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: codec: {error}") from None
    if len({len(book) for book in books}) > 1:
        raise InputError(f"{where}: the codebooks of codec have {', '.join(str(len(book)) for book in books)} codes")
    return torch.stack(books, 1)
