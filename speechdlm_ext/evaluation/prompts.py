"""Which real conversation a generated one continues, and the parts of both that are compared."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.measure_dialogue import Measurement
from speechdlm_ext.units.files import read_unit_file

_SAMPLE = re.compile(r"-s\d+$")  # several samples of a prompt are named after it, with -s1, -s2, …
_SHORTEST = 1.0  # seconds of continuation that are worth comparing


@dataclass(frozen=True)
class PromptOptions:
    """How prompts are told from continuations.

    Attributes:
        table: file of rows that say what each generated dialogue continues; None where the names do.
        prompt_seconds: length of the prompts whose row does not say.
        continuation_seconds: of the continuations, at most.
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
                "0 or more, and more than 0, are wanted"
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


@dataclass
class Pairs:
    """Pairs in order of the generated names; ``left_out``: (generated name, reason)."""

    pairs: list[Pair] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def pair_dialogues(
    generated: Mapping[str, Measurement], reference: Mapping[str, Measurement], options: PromptOptions
) -> Pairs:
    """Find what each generated dialogue continues.

    With a table, its row is the one whose ``audio`` (or ``id``) is the dialogue's name; ``recording`` is the
    reference's name (without it, the name without ``-s1``), ``start`` the second at which the prompt begins there, and
    ``prompt_frames`` (of ``frame_rate``, 50 Hz) or ``prompt_seconds`` its length: the rows that
    ``scripts/sample_speech_dlm.py`` writes. Without, the names are the same, but for ``-s1``.

    Both continuations are cut to the length that both have.

    Raises:
        InputError: the table cannot be read, or no dialogue has a pair.
    """
    rows = _read_table(options.table) if options.table else None
    found = Pairs()
    for name in sorted(generated):
        try:
            found.pairs.append(_pair(name, rows, generated, reference, options))
        except InputError as error:
            found.left_out.append((name, str(error)))
    if not found.pairs:
        why = found.left_out[0] if found.left_out else ("nothing", "there is no generated dialogue")
        raise InputError(f"--prompts: no generated dialogue has a real one to go with; {why[0]}: {why[1]}")
    return found


def _read_table(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    return {str(row.get("audio", row.get("id", ""))): row for row in read_unit_file(path)}


def _pair(
    name: str,
    rows: Mapping[str, Mapping[str, Any]] | None,
    generated: Mapping[str, Measurement],
    reference: Mapping[str, Measurement],
    options: PromptOptions,
) -> Pair:
    plain = _SAMPLE.sub("", name)
    row: Mapping[str, Any] = {}
    if rows is not None:
        there = rows.get(name, rows.get(Path(name).name))
        if there is None:
            raise InputError(f"{options.table} has no row for it")
        row = there
    other = str(row.get("recording", name if name in reference else plain))
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
        raise InputError(f"after {prompt:g} s of prompt, {max(0.0, rest):.2f} s are left on the shorter side")
    return Pair(name, other, lead, begin, seconds, lead)


def _number(row: Mapping[str, Any], key: str, default: float = 0.0, least: float = 0.0) -> float:
    value = row.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
        raise InputError(f"its row has {value!r} as {key}: a number, {least:g} or more, is wanted")
    return float(value)
