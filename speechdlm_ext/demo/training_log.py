"""What fairseq's JSON log lines say: losses by update, and how far a training is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_LINE = re.compile(r"\| (train_inner|train|valid|[\w.-]+) \| (\{.*\})\s*$")


@dataclass
class TrainingCurves:
    """Figures by number of updates; of an update that was made twice (after a kill) the later ones count."""

    train_bits: dict[int, float] = field(default_factory=dict)
    valid_bits: dict[int, float] = field(default_factory=dict)
    train_duration: dict[int, float] = field(default_factory=dict)
    valid_duration: dict[int, float] = field(default_factory=dict)
    parameters: int | None = None


def parse_line(line: str) -> tuple[str, dict[str, Any]] | None:
    """Kind (``train_inner``, ``train``, ``valid``) and figures of a log line, if it has any."""
    match = _LINE.search(line)
    if not match:
        return None
    try:
        figures = json.loads(match.group(2))
    except json.JSONDecodeError:
        return None
    return match.group(1), figures


def _number(figures: dict[str, Any], *names: str) -> float | None:
    for name in names:
        if name in figures:
            try:
                return float(figures[name])
            except (TypeError, ValueError):
                return None
    return None


def read_curves(lines: Iterable[str]) -> TrainingCurves:
    """Collect the curves of a ``fairseq-train --log-format json`` log."""
    curves = TrainingCurves()
    for line in lines:
        if curves.parameters is None and (found := re.search(r"num\. trained: ([\d,]+)\)", line)):
            curves.parameters = int(found.group(1).replace(",", ""))
        parsed = parse_line(line)
        if parsed is None:
            continue
        kind, figures = parsed
        if kind == "train_inner":
            _add(curves.train_bits, curves.train_duration, figures, "num_updates", "")
        elif kind == "valid":
            _add(curves.valid_bits, curves.valid_duration, figures, "valid_num_updates", "valid_")
    return curves


def _add(
    bits: dict[int, float], duration: dict[int, float], figures: dict[str, Any], updates: str, prefix: str
) -> None:
    number = _number(figures, updates)
    if number is None:
        return
    for target, name in ((bits, "edge_token_loss"), (duration, "edge_duration_loss")):
        value = _number(figures, prefix + name)
        if value is not None:
            target[int(number)] = value


def read_validation(lines: Iterable[str]) -> dict[str, float]:
    """Figures of the last line that ``fairseq-validate`` wrote about the whole set, by name."""
    last: dict[str, float] = {}
    for line in lines:
        parsed = parse_line(line)
        if parsed is None or not any("edge_token_loss" in name for name in parsed[1]):
            continue
        last = {}
        for name in parsed[1]:
            value = _number(parsed[1], name)
            if value is not None:
                last[name.removeprefix("valid_")] = value
    return last


class TrainingProgress:
    """Turns lines of a training log into what is shown while it runs.

    Args:
        updates: of the whole training.
    """

    def __init__(self, updates: int) -> None:
        self.updates = updates
        self.valid = ""

    def __call__(self, line: str) -> str | None:
        """How far it is, or None for lines that say nothing of it."""
        parsed = parse_line(line)
        if parsed is None:
            return None
        kind, figures = parsed
        if kind == "valid":
            self.valid = f", {figures.get('valid_edge_token_loss')} on what is held out"
        number, bits = _number(figures, "num_updates", "valid_num_updates"), _number(figures, "edge_token_loss")
        if kind != "train_inner" or number is None or bits is None:
            return None
        speed = _number(figures, "ups") or 0.0
        left = f", {(self.updates - number) / speed:.0f} s left" if speed else ""
        return f"update {number:.0f} of {self.updates}: {bits:.2f} bits per edge unit{self.valid}{left}"
