"""Rows of a unit file to one unit a frame: deduplicated units last as long as they should, or are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import DURATIONS, draw_out, row_channels, row_units

if TYPE_CHECKING:
    from speechdlm_ext.synthesis.vocoder import Vocoder

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
    if any(channel + DURATIONS in row for channel in channels):
        return row_units(draw_out(row), channels)
    if not deduplicated:
        return row_units(row, channels)
    if not vocoder.predicts_durations:
        raise InputError(
            f"row {name}: no unit is ever followed by itself, so these units are deduplicated, and speech made from "
            "them would be compressed in time: give their unitA.durations (encode_units.py --deduplicate writes them), "
            "take a vocoder that predicts durations, or pass --duplicated if there is one unit for every frame"
        )
    return [predict_frames(units, vocoder) for units in row_units(row, channels, deduplicated=True)]


def predict_frames(units: Sequence[int], vocoder: Vocoder) -> list[int]:
    """One unit a frame from deduplicated units, each as long as the vocoder predicts."""
    import torch

    labels = torch.tensor(units)
    repeated: list[int] = torch.repeat_interleave(labels, vocoder.predict_durations(labels)).tolist()
    return repeated
