"""Rows of a unit file as prompts of a model, of dialogues or of one channel of units, and continuations as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.generator import Hypothesis
from speechdlm_ext.hub import DialogueModel, UnitModel
from speechdlm_ext.hub.dialogues import channel_texts, column
from speechdlm_ext.units.files import DURATIONS, choose_channel, format_units, parse_units, row_channels

Row = Mapping[str, Any]


class Prompts(Protocol):
    """How a kind of model reads the rows of a unit file, and writes its answers."""

    def cut(self, row: Row, name: str) -> dict[str, Any]:
        """The fields of a row that the prompt is made of, and its length; ``name`` names the row in errors."""

    def encode(self, job: Row) -> Tensor:
        """What :meth:`cut` has made of a row, as ids ``(T, C)``."""

    def durations(self, job: Row) -> Tensor:
        """How long the prompt's units last in frames, as far as that is known, ``(T, C)``."""

    def answer(self, job: Row, found: Hypothesis) -> dict[str, Any]:
        """The row of the output."""


class DialoguePrompts:
    """Dialogues, a unit for each frame of each channel.

    Args:
        frames: cut each dialogue to its first frames; ``None`` for all of it.
        condition_on: a channel that is given in full.
    """

    def __init__(self, model: DialogueModel, frames: int | None = None, condition_on: str | None = None) -> None:
        column(model.task.dictionary, condition_on)
        self.model, self.frames, self.condition_on = model, frames, condition_on

    def cut(self, row: Row, name: str) -> dict[str, Any]:
        """See :class:`Prompts`."""
        channels = self.model.channels
        texts = channel_texts(row, channels, f"dialogue {name}")
        cut = {
            channel: text.split()[: None if channel == self.condition_on else self.frames]
            for channel, text in zip(channels, texts, strict=True)
        }
        shortest = min(len(units) for channel, units in cut.items() if channel != self.condition_on)
        needed = int(self.condition_on is None) if self.frames is None else self.frames
        if shortest < needed:
            raise InputError(f"dialogue {name}: {shortest} frames, {needed} are needed for the prompt")
        return {**{channel: " ".join(units) for channel, units in cut.items()}, "prompt_frames": shortest}

    def encode(self, job: Row) -> Tensor:
        """See :class:`Prompts`."""
        return self.model.encode(dict(job), f"dialogue {job['audio']}", self.condition_on)

    def durations(self, job: Row) -> Tensor:
        """See :class:`Prompts`; a unit is a frame."""
        return torch.zeros(0, len(self.model.channels), dtype=torch.long)

    def answer(self, job: Row, found: Hypothesis) -> dict[str, Any]:
        """See :class:`Prompts`."""
        return {**job, **self.model.decode(found.units), "score": round(found.score, 6)}


class SequencePrompts:
    """Sequences of one channel's units, with their durations where the model predicts them.

    The durations that a prompt comes with stay; those of the continuation are the model's.

    Args:
        units: cut each sequence to its first units; ``None`` for all of it. None at all begin an utterance.
        channel: the one to continue, of rows with several; the others are skipped of the answers.
    """

    def __init__(self, model: UnitModel, units: int | None = None, channel: str | None = None) -> None:
        self.model, self.units, self.channel = model, units, channel

    def cut(self, row: Row, name: str) -> dict[str, Any]:
        """See :class:`Prompts`."""
        channel = self._channel(row, name)
        units = str(row[channel]).split()[: self.units]
        fields = {channel: " ".join(units), "prompt_units": len(units)}
        if channel + DURATIONS in row:
            durations = str(row[channel + DURATIONS]).split()
            if len(durations) != len(str(row[channel]).split()):
                raise InputError(
                    f"row {name}, {channel}: {len(str(row[channel]).split())} units, but {len(durations)} durations"
                )
            fields[channel + DURATIONS] = " ".join(durations[: self.units])
        return fields

    def encode(self, job: Row) -> Tensor:
        """See :class:`Prompts`."""
        name = f"row {job['audio']}"
        return self.model.encode(job[self._channel(job, name)], name).unsqueeze(1)

    def durations(self, job: Row) -> Tensor:
        """See :class:`Prompts`; those that the row gives."""
        name = self._channel(job, str(job["audio"])) + DURATIONS
        try:
            frames = parse_units(str(job.get(name, "")))
        except InputError as error:
            raise InputError(f"row {job['audio']}, {name}: {error}") from None
        return torch.tensor(frames, dtype=torch.long).unsqueeze(1)

    def answer(self, job: Row, found: Hypothesis) -> dict[str, Any]:
        """See :class:`Prompts`."""
        channel = self._channel(job, str(job["audio"]))
        others = {name + ending for name in row_channels(job) for ending in ("", DURATIONS)}
        row = {key: value for key, value in job.items() if key not in others}
        row[channel] = self.model.decode(found.units[:, 0])
        if found.durations is not None:
            row[channel + DURATIONS] = format_units(found.durations[:, 0].tolist())
            if self.model.frame_rate is not None:
                row.setdefault("frame_rate", self.model.frame_rate)
        return {**row, "score": round(found.score, 6), "ended": found.ended}

    def _channel(self, row: Row, name: str) -> str:
        return choose_channel(row, self.channel, f"row {name}")
