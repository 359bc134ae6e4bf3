"""Rows of a unit file to one unit a frame: deduplicated units last as long as they should, or are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import parse_units, row_channels, row_units

if TYPE_CHECKING:
    from speechdlm_ext.synthesis.vocoder import Vocoder

DURATIONS = ".durations"
# Fewer units than this in a file without repetition may well be there once each.
_TELLING = 20


def are_deduplicated(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether units without durations have lost their repetitions: no unit in any of the rows is followed by itself.

    At 50 frames a second about every second frame has the unit of the frame before it, so that duplicated units are not
    mistaken for deduplicated ones; with fewer than 20 units nothing is said.
    """
    counted = 0
    for row in rows:
        channels = row_channels(row)
        if any(channel + DURATIONS in row for channel in channels):
            continue
        for channel in channels:
            units = row[channel].split()
            if any(one == other for one, other in zip(units, units[1:], strict=False)):
                return False
            counted += len(units)
    return counted >= _TELLING


def frame_units(row: Mapping[str, Any], vocoder: Vocoder, deduplicated: bool = False) -> list[list[int]]:
    """The units of each channel of a row, one a frame.

    Args:
        row: of a unit file; a channel ``unitA`` that is deduplicated has ``unitA.durations``, the frames of each unit.
        vocoder: tells the durations of deduplicated units that come without.
        deduplicated: whether units without durations are deduplicated.

    Returns:
        (C, T); with predicted durations, channels may differ in length.

    Raises:
        InputError: a channel is missing or not right, durations do not fit their units, or are needed and not there.
    """
    name, channels = row.get("audio", "?"), row_channels(row)
    with_durations = [channel for channel in channels if channel + DURATIONS in row]
    if with_durations:
        if len(with_durations) < len(channels):
            raise InputError(f"row {name} has {with_durations[0]}{DURATIONS}, but not for every channel")
        expanded = [_expand(row, channel) for channel in channels]
        if len({len(units) for units in expanded}) > 1:
            found = ", ".join(str(len(units)) for units in expanded)
            raise InputError(f"row {name}: channels of unequal length with their durations ({found} frames)")
        return expanded
    if not deduplicated:
        return row_units(row, channels)
    if not vocoder.predicts_durations:
        raise InputError(
            f"row {name}: no unit is ever followed by itself, so these units are deduplicated, and speech made from "
            "them would be compressed in time: give their unitA.durations (encode_units.py --deduplicate writes them), "
            "take a vocoder that predicts durations, or pass --duplicated if there is one unit for every frame"
        )
    return [_predict(row_units(row, [channel])[0], vocoder) for channel in channels]


def _expand(row: Mapping[str, Any], channel: str) -> list[int]:
    name = row.get("audio", "?")
    units = row_units(row, [channel])[0]
    try:
        durations = parse_units(row[channel + DURATIONS])
    except InputError as error:
        raise InputError(f"row {name}, {channel}{DURATIONS}: {error}") from None
    if len(durations) != len(units):
        raise InputError(f"row {name}: {len(units)} units in {channel}, {len(durations)} in {channel}{DURATIONS}")
    if not all(durations):
        raise InputError(f"row {name}, {channel}{DURATIONS}: a duration of 0 frames")
    return [unit for unit, frames in zip(units, durations, strict=True) for _ in range(frames)]


def _predict(units: list[int], vocoder: Vocoder) -> list[int]:
    import torch

    labels = torch.tensor(units)
    repeated: list[int] = torch.repeat_interleave(labels, vocoder.predict_durations(labels)).tolist()
    return repeated
