"""A corpus as it is evaluated: whole dialogues, or the continuations of prompts beside what really followed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import Dialogue
from speechdlm_ext.evaluation.measure import Measurement
from speechdlm_ext.metrics.events import Events
from speechdlm_ext.metrics.intervals import crop_intervals, shift_intervals
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions, find_events_of_many
from speechdlm_ext.units.files import read_unit_file

_SAMPLE = re.compile(r"-s\d+$")  # samples of a prompt are named after it, with -s1, -s2, …
_SHORTEST = 1.0  # seconds of continuation, at least


@dataclass
class EvalSet:
    """The dialogues of a corpus that could be measured, in order, and the window of each that counts.

    Attributes:
        dialogues, measurements: of each dialogue.
        windows: start and length of the window in seconds.
        leads: seconds before it that belong to the dialogue, as a prompt does.
        events: turn-taking in the windows, on clocks that begin with them.
    """

    dialogues: list[Dialogue]
    measurements: list[Measurement]
    windows: list[tuple[float, float]]
    leads: list[float]
    events: Events = field(init=False)

    def find_events(self, options: TurnTakingOptions) -> None:
        """Fill ``events``."""
        talks = [
            (crop_activity(measurement, start, start + seconds), seconds)
            for measurement, (start, seconds) in zip(self.measurements, self.windows, strict=True)
        ]
        self.events = find_events_of_many(talks, options)

    def units(self) -> list[list[NDArray[np.int32]]]:
        """The units of each dialogue's channels within its window; empty where there are none."""
        found = []
        for dialogue, (start, seconds) in zip(self.dialogues, self.windows, strict=True):
            rate = dialogue.frame_rate
            first, last = round(start * rate), round((start + seconds) * rate)
            found.append([channel[first:last] for channel in dialogue.units])
        return found


def crop_activity(measurement: Measurement, start: float, end: float) -> list[list[tuple[float, float]]]:
    """Speech of each channel between two times (seconds), on a clock that begins at ``start``."""
    return [shift_intervals(crop_intervals(channel, start, end), -start) for channel in measurement.activity]


def whole_dialogues(dialogues: Sequence[Dialogue], measurements: Mapping[str, Measurement]) -> EvalSet:
    """Whole dialogues, those that could be measured."""
    known = [dialogue for dialogue in dialogues if dialogue.name in measurements]
    own = [measurements[dialogue.name] for dialogue in known]
    return EvalSet(known, own, [(0.0, m.duration) for m in own], [0.0] * len(own))


@dataclass(frozen=True)
class PromptOptions:
    """How prompts are separated from continuations.

    Attributes:
        table: unit file whose rows say what each generated dialogue continues; None where the names do.
        prompt_seconds: length of the prompts whose row does not say.
        continuation_seconds: maximum length of the continuations.
        included: whether generated dialogues begin with their prompt.
    """

    table: Path | None = None
    prompt_seconds: float = 30.0
    continuation_seconds: float = 90.0
    included: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.prompt_seconds < 1e6 and 0 < self.continuation_seconds < 1e6):
            raise InputError(
                f"--prompt-seconds {self.prompt_seconds:g}, --continuation-seconds {self.continuation_seconds:g}: "
                "expected 0 or more, and more than 0"
            )


@dataclass(frozen=True)
class Pair:
    """A generated continuation and the real one.

    Attributes:
        generated, reference: names of the dialogues.
        generated_start, reference_start: where the continuation begins in each, in seconds.
        seconds: length of both.
        lead: seconds of prompt in the generated dialogue.
    """

    generated: str
    reference: str
    generated_start: float
    reference_start: float
    seconds: float
    lead: float


def pair_dialogues(
    generated: Mapping[str, Measurement], reference: Mapping[str, Measurement], options: PromptOptions
) -> tuple[list[Pair], list[tuple[str, str]]]:
    """Find what each generated dialogue continues.

    With a table, its row is the one whose ``audio`` (or ``id``) is the dialogue's name; ``recording`` is the
    reference's name (without it, the name without ``-s1``), ``start`` the second at which the prompt begins there, and
    ``prompt_frames`` (of ``frame_rate``, 50 Hz) or ``prompt_seconds`` its length: the rows that
    ``scripts/sample_speech_dlm.py`` writes. Without, the names are the same, except for ``-s1``.

    Both continuations are cut to the length that both have.

    Returns:
        Pairs in order of the generated names; and the generated names that have none, each with the reason.

    Raises:
        InputError: the table cannot be read, or no dialogue has a pair.
    """
    rows = None
    if options.table:
        rows = {str(row.get("audio", row.get("id", ""))): row for row in read_unit_file(options.table)}
    pairs: list[Pair] = []
    skipped: list[tuple[str, str]] = []
    for name in sorted(generated):
        try:
            pairs.append(_pair(name, rows, generated, reference, options))
        except InputError as error:
            skipped.append((name, str(error)))
    if not pairs:
        name, why = skipped[0] if skipped else ("nothing", "there is no generated dialogue")
        raise InputError(f"--prompts: no generated dialogue has a real continuation; {name}: {why}")
    return pairs, skipped


def _pair(
    name: str,
    rows: Mapping[str, Mapping[str, Any]] | None,
    generated: Mapping[str, Measurement],
    reference: Mapping[str, Measurement],
    options: PromptOptions,
) -> Pair:
    row: Mapping[str, Any] | None = {}
    if rows is not None:
        row = rows.get(name, rows.get(os.path.basename(name)))
        if row is None:
            raise InputError(f"{options.table} has no row for it")
    assert row is not None
    other = str(row.get("recording", name if name in reference else _SAMPLE.sub("", name)))
    if other not in reference:
        raise InputError(f"the reference has no dialogue {other}")
    prompt = options.prompt_seconds
    if "prompt_frames" in row:
        prompt = _number(row, "prompt_frames") / _number(row, "frame_rate", 50.0, least=1e-3)
    prompt = _number(row, "prompt_seconds", prompt)
    lead = prompt if options.included else 0.0
    begin = _number(row, "start", 0.0) + prompt
    rest = min(generated[name].duration - lead, reference[other].duration - begin)
    seconds = min(options.continuation_seconds, rest)
    if seconds < _SHORTEST:
        raise InputError(f"after {prompt:g} s of prompt, {max(0.0, rest):.2f} s remain on the shorter side")
    return Pair(name, other, lead, begin, seconds, lead)


def _number(row: Mapping[str, Any], key: str, default: float = 0.0, least: float = 0.0) -> float:
    value = row.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
        raise InputError(f"its row has {value!r} as {key}: expected a number, {least:g} or more")
    return float(value)


def continuations(
    dialogues: Sequence[Dialogue], measurements: Mapping[str, Measurement], pairs: Sequence[Pair]
) -> EvalSet:
    """The generated continuations alone."""
    by_name = {dialogue.name: dialogue for dialogue in dialogues}
    return EvalSet(
        [by_name[pair.generated] for pair in pairs],
        [measurements[pair.generated] for pair in pairs],
        [(pair.generated_start, pair.seconds) for pair in pairs],
        [pair.lead for pair in pairs],
    )
