"""The text channel of duplex models: what an agent says, one token for each frame, beside the sound."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from speechdlm_ext.errors import InputError

FRAME_SECONDS = 0.08
_TIME_STAMP = re.compile(r"<\|\d+\|>")


@dataclass(frozen=True)
class Turn:
    """What one speaker says in one go (a supervision of lhotse): seconds from the recording's start."""

    start: float
    duration: float
    text: str
    speaker: str

    @property
    def end(self) -> float:
        """Where it ends, in seconds."""
        return self.start + self.duration


@dataclass(frozen=True)
class TextIds:
    """How a text channel is written: the tokenizer, and the ids around and between turns."""

    encode: Callable[[str], Sequence[int]]
    bos: int
    eos: int
    pad: int


@dataclass(frozen=True)
class TextChannel:
    """A text channel.

    Attributes:
        tokens: ids ``(T,)``.
        lost: tokens of the text that are not in it.
        notes: for each turn that lost some, what and why.
    """

    tokens: np.ndarray
    lost: int
    notes: list[str]


def strip_timestamps(text: str) -> str:
    """The text without time stamps of whole frames (``<|12|>``), and with single spaces."""
    return " ".join(_TIME_STAMP.sub(" ", text).split())


def count_frames(seconds: float, frame_length: float = FRAME_SECONDS, sample_rate: int = 16000) -> int:
    """Frames of ``frame_length`` seconds in a time, by samples, halves rounded up."""
    hop = round(frame_length * sample_rate)
    return (round(seconds * sample_rate) + hop // 2) // hop


def build_token_channel(
    duration: float,
    turns: Sequence[Turn],
    roles: Collection[str],
    ids: TextIds,
    frame_length: float = FRAME_SECONDS,
    sample_rate: int = 16000,
    cut_at_turn_end: bool = False,
) -> TextChannel:
    """Write the turns of some speakers into a channel of ``pad``, as NeMo's duplex models are trained.

    BOS and the tokens go to consecutive frames from the turn's start, EOS to the frame where it ends, if that is
    inside. Later turns are written over earlier ones, and EOS over text that still goes on; what is lost is counted.

    Args:
        duration: of the recording, in seconds.
        turns: of all speakers, in the order in which they are written.
        roles: the speakers whose turns are written.
        ids: of tokens.
        frame_length: seconds of a frame.
        sample_rate: by whose samples times are rounded.
        cut_at_turn_end: leave out text for which the turn has no frames, instead of writing it on behind the EOS.
    """
    length = count_frames(duration, frame_length, sample_rate)
    tokens = np.full(length, ids.pad, dtype=np.int64)
    writer = np.full(length, -1)  # which turn's text a frame has
    written: list[tuple[Turn, int]] = []
    for turn in (turn for turn in turns if turn.speaker in roles):
        start, end = (count_frames(time, frame_length, sample_rate) for time in (turn.start, turn.end))
        text = list(ids.encode(turn.text))
        number = len(written)
        written.append((turn, len(text)))
        if start >= length:
            continue
        room = min(end, length) if cut_at_turn_end else length
        piece = [ids.bos, *text][: max(1, room - start)]
        tokens[start : start + len(piece)] = piece
        writer[start] = -1
        writer[start + 1 : start + len(piece)] = number
        if end < length:
            tokens[end], writer[end] = ids.eos, -1
    kept = np.bincount(writer[writer >= 0], minlength=len(written))
    notes = [
        f"{size - have} of the {size} tokens of {turn.text!r} ({turn.start:g} to {turn.end:g} s)"
        for (turn, size), have in zip(written, kept, strict=True)
        if have < size
    ]
    return TextChannel(tokens, int(sum(size for _, size in written) - kept.sum()), notes)


def check_turns(
    turns: Sequence[Turn], duration: float, roles: Collection[str], where: str, frame_length: float = FRAME_SECONDS
) -> None:
    """Raise :class:`InputError` unless turns are inside the recording, and those of ``roles`` one after the other."""
    for turn in turns:
        if turn.start < 0 or turn.duration < 0 or turn.end > duration + frame_length:
            raise InputError(
                f"{where}: the supervision {turn.text!r} of {turn.speaker} is from {turn.start:g} to {turn.end:g} s, "
                f"the recording from 0 to {duration:g} s: correct its start and duration"
            )
    own = sorted((turn for turn in turns if turn.speaker in roles), key=lambda turn: turn.start)
    for first, second in zip(own, own[1:], strict=False):
        if second.start < first.end - frame_length / 2:
            raise InputError(
                f"{where}: the supervisions {first.text!r} (to {first.end:g} s) and {second.text!r} (from "
                f"{second.start:g} s) of {second.speaker} overlap: one text channel has room for one of them; join them"
            )
