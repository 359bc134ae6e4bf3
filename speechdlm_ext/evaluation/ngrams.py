"""N-grams of unit files: counted in one, evaluated on another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.config import write_json
from speechdlm_ext.metrics.ngrams import KneserNey, NgramFigures, has_repeats, measure_ngram
from speechdlm_ext.units.files import choose_channel, expand_durations, frame_rate, parse_units, read_unit_file


def measure_unit_files(
    train: str | os.PathLike[str],
    held_out: str | os.PathLike[str],
    orders: Sequence[int],
    num_units: int | None = None,
    channel: str | None = None,
    copies: bool = True,
) -> list[NgramFigures]:
    """Figures of an n-gram of each order.

    Args:
        train: unit file to count.
        held_out: unit file to predict.
        num_units: size of the codebook; by default one more than the greatest unit of both.
        channel: the one to read, of rows with several.
        copies: count copies at other speeds (``copy_of``) as well.

    Raises:
        InputError: a file that cannot be read, or in which there are no units.
    """
    counted = [row for row in read_unit_file(train) if copies or "copy_of" not in row]
    predicted = read_unit_file(held_out)
    known = [line for row in counted if (line := _units(row, channel))]
    lines = [line for row in predicted if (line := _units(row, channel))]
    for path, found in ((train, known), (held_out, lines)):
        if not found:
            raise InputError(f"{os.fspath(path)}: no units in it")
    greatest = max(map(max, known + lines))
    if num_units is not None and greatest >= num_units:
        raise InputError(f"--num-units {num_units}: unit {greatest} occurs, so the codebook has more")
    seconds = sum(_seconds(row, channel) for row in predicted)
    without_repeats = not has_repeats(known + lines)
    return [
        measure_ngram(KneserNey(known, order, num_units or greatest + 1, without_repeats), lines, seconds)
        for order in orders
    ]


def _channel(row: Mapping[str, Any], channel: str | None) -> str:
    return choose_channel(row, channel, f"row {row.get('audio', '?')}")


def _units(row: Mapping[str, Any], channel: str | None) -> list[int]:
    return parse_units(row[_channel(row, channel)])


def _seconds(row: Mapping[str, Any], channel: str | None) -> float:
    """How long a row lasts, by its units' durations or else one frame each."""
    return len(expand_durations(row)[_channel(row, channel)].split()) / frame_rate(row)


def tabulate_figures(figures: Sequence[NgramFigures]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| n | bits per unit | bits per second | nll_loss | units |\n", "| --- | --- | --- | --- | --- |\n"]
    for found in figures:
        per_second = "–" if found.bits_per_second is None else f"{found.bits_per_second:.2f}"
        lines.append(
            f"| {found.order} | {found.bits_per_unit:.4f} | {per_second} | {found.nll_loss:.4f} | {found.units:,} |\n"
        )
    return "".join(lines)


def write_figures(path: str | os.PathLike[str], figures: Sequence[NgramFigures]) -> None:
    """Write the figures as JSON, whole or not at all."""
    write_json(path, [asdict(found) for found in figures])
