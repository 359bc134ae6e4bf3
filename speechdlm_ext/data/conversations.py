"""Conversations of text and audio: read from multi-turn JSON lines, ShareGPT's, manifests, and lhotse's cuts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from speechdlm_ext.data.prompts import ASSISTANT, SYSTEM, USER, Turn, join_turns
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_audio
from speechdlm_ext.io.lhotse import manifest_row
from speechdlm_ext.io.shar import iter_cuts, parse_part

_ROLES = {"human": USER, "gpt": ASSISTANT}
_SOUND = re.compile(r"<sound>|<speech>")


@dataclass(frozen=True)
class Audio:
    """A part of a recording.

    Attributes:
        path: the file.
        offset, duration: in seconds.
    """

    path: str
    offset: float
    duration: float

    def read(self, sample_rate: int) -> Tensor:
        """Samples (N,) at ``sample_rate`` Hz; raises :class:`InputError` where the file does not have them."""
        stop = self.offset + self.duration
        wave, _ = read_audio(self.path, sample_rate, channels=1, start=self.offset, stop=stop)
        if wave.size(1) < (self.duration - 0.1) * sample_rate:
            raise InputError(
                f"{self.path}: ends {stop - self.offset - wave.size(1) / sample_rate:.2f} s before {stop:g} s"
            )
        return wave[0]


@dataclass(frozen=True)
class Conversation:
    """Turns whose text has a placeholder for each audio.

    Attributes:
        id: its name.
        turns: neighbours of one role are joined.
        audios: in the order of the placeholders.
        row: the line that it was read from.
    """

    id: str
    turns: list[Turn]
    audios: list[Audio]
    row: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def seconds(self) -> float:
        """Of all audio."""
        return sum(audio.duration for audio in self.audios)

    @property
    def answer(self) -> str:
        """What the assistant says last; empty where it does not."""
        return self.turns[-1].text if self.turns[-1].role == ASSISTANT else ""

    def without_answer(self) -> Conversation:
        """The turns before the answer."""
        return replace(self, turns=self.turns[:-1]) if self.turns[-1].role == ASSISTANT else self

    def as_prompt(self) -> list[dict[str, str]]:
        """The turns before the answer, as ``generate`` takes them."""
        return [{"role": turn.role, "content": turn.text} for turn in self.without_answer().turns]


def iter_conversations(
    path: str | os.PathLike[str], tag: str, context: str = "", system_prompt: str = ""
) -> Iterator[Conversation]:
    """Read a file whose lines are of any of these kinds:

    - ``{"id", "conversations": [{"type": "text" | "audio", "from", "value", "duration", "offset"}]}``;
    - ShareGPT: ``{"id", "sound", "conversations": [{"from": "human" | "gpt", "value"}]}`` with ``<sound>``;
    - a manifest: ``{"audio_filepath", "duration", "text", "offset", "context"}``;
    - a cut of lhotse: ``{"id", "start", "duration", "recording", "supervisions"}``; also in a SHAR folder.

    Audio is looked for from the working directory, then beside the file. Lines with ``_skipme`` are skipped.

    Args:
        tag: the placeholder.
        context: what a user says before the audio, where a line of the last two kinds has no ``context``.
        system_prompt: of all conversations that have none.

    Raises:
        InputError: a line of no such kind, or one whose audio is missing or shorter than it says; no conversations.
    """
    folder, count = Path(path).parent, 0
    for line in iter_cuts(path):
        row, where = line.row, f"{path}, line {line.number}"
        if row.get("_skipme"):
            continue
        try:
            audios, turns = _turns(row, folder, tag, context, where)
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            raise InputError(f"{where}: not a conversation ({type(error).__name__}: {error})") from None
        if system_prompt and turns[0].role != SYSTEM:
            turns.insert(0, Turn(SYSTEM, system_prompt))
        name = str(row.get("id", f"{Path(path).stem}-{line.number}"))
        placeholders = sum(turn.text.count(tag) for turn in turns)
        if placeholders != len(audios):
            raise InputError(f"{where}: {placeholders} placeholders {tag} for {len(audios)} audios: expected one each")
        count += 1
        yield Conversation(name, join_turns(turns), audios, row)
    if not count:
        raise InputError(f"{path}: no conversations in it")


def _turns(row: Mapping[str, Any], folder: Path, tag: str, context: str, where: str) -> tuple[list[Audio], list[Turn]]:
    if "conversations" in row:
        if not row["conversations"]:
            raise InputError(f"{where}: a conversation without turns")
        turns, audios = [], []
        for turn in row["conversations"]:
            role = str(turn["from"]).lower()
            role, text = _ROLES.get(role, role), str(turn["value"])
            if turn.get("type") == "audio":
                audios.append(_audio(text, folder, turn.get("offset"), turn.get("duration"), where))
                text = tag
            elif _SOUND.search(text) and "sound" in row:
                audios.append(_audio(row["sound"], folder, row.get("offset"), row.get("duration"), where))
                text = _SOUND.sub(tag, text, count=1).replace("\n", " ").strip()
            turns.append(Turn(role, text))
        return audios, turns
    if "recording" in row:
        row = manifest_row(row, where)
    if "audio_filepath" in row or "audio_filename" in row:
        name = row.get("audio_filepath", row.get("audio_filename"))
        audio = _audio(name, folder, row.get("offset"), row.get("duration"), where)
        text = str(row.get("text", row.get("normalized_text")) or "")
        context = str(row.get("context", context))
    else:
        raise InputError(f"{where}: neither conversations, nor audio_filepath, nor recording in it")
    turns = [Turn(USER, context)] if context else []
    turns.append(Turn(USER, tag))
    return [audio], [*turns, Turn(ASSISTANT, text)] if text else turns


def _audio(name: Any, folder: Path, offset: Any, duration: Any, where: str) -> Audio:
    path = Path(str(name))
    part = parse_part(path)
    if part is None and not path.is_file():
        path = folder / path
    if part is None and not path.is_file():
        raise InputError(f"{where}: {name}: no such file, from the working directory or beside the manifest")
    start = float(offset or 0.0)
    if duration is None:
        duration = audio_info(path).duration - start
    if not (0 <= start < float("inf") and 0 < float(duration) < float("inf")):
        raise InputError(f"{where}: offset {offset}, duration {duration}; expected seconds of some audio")
    return Audio(str(path), start, float(duration))
