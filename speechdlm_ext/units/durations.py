"""Rows of a unit file to one unit a frame: deduplicated units last as long as they should, or are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import eq
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import DURATIONS, expand_durations, row_channels, row_units

if TYPE_CHECKING:
    from speechdlm_ext.vocoders.base import Vocoder

# Of units at 50 Hz, a fifth to a half are followed by themselves (15 % in the lowest of 159 stretches of 100 frames of
# speech, with as many as 1000 log-mel units); of deduplicated ones none, or a few where a language model has made them.
_FEW = 0.08
# How many units must have another after them for their share to tell something, of a file and of one of its rows.
_TELLING_FILE, _TELLING_ROW = 20, 100


def are_deduplicated(rows: Sequence[Mapping[str, Any]]) -> list[bool | None]:
    """Whether the units of each row have lost their repetitions: fewer than 8 in 100 are followed by themselves.

    Rows of more than a hundred units are judged by themselves, shorter ones by the whole file. Channels of equal length
    are those of a dialogue, side by side in time: without their repetitions they would not be in step.

    Returns:
        One for each row: False for rows with durations and dialogues, None where the file has too few units to tell.
    """
    counts = [_count_repeats(row) for row in rows]
    known = [count for count in counts if count is not None]
    whole = _judge(sum(repeats for repeats, _ in known), sum(places for _, places in known), _TELLING_FILE)
    judged: list[bool | None] = []
    for count in counts:
        own = False if count is None else _judge(*count, _TELLING_ROW)
        judged.append(whole if own is None else own)
    return judged


def _count_repeats(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many units are followed by themselves, and how many by any; None for a row with durations, or a dialogue."""
    channels = row_channels(row)
    if any(channel + DURATIONS in row for channel in channels):
        return None
    units = [row[channel].split() for channel in channels]
    if len(units) > 1 and len(set(map(len, units))) == 1:
        return None
    repeats = sum(sum(map(eq, own, own[1:])) for own in units)
    return repeats, sum(max(0, len(own) - 1) for own in units)


def _judge(repeats: int, places: int, telling: int) -> bool | None:
    return repeats < _FEW * places if places >= telling else None


def frame_units(row: Mapping[str, Any], vocoder: Vocoder, deduplicated: bool = False) -> list[list[int]]:
    """The units of each channel of a row, one a frame.

    Args:
        row: of a unit file; a channel ``unitA`` that is deduplicated has ``unitA.durations``, the frames of each unit.
        vocoder: tells the durations of deduplicated units that come without.
        deduplicated: whether units without durations are deduplicated.

    Returns:
        (C, T); with predicted durations, channels may differ in length.

    Raises:
        InputError: a channel is missing or not right, a unit is not among the vocoder's, durations do not fit their
            units, or are needed and not there.
    """
    name, channels = row.get("audio", "?"), row_channels(row)
    drawn = any(channel + DURATIONS in row for channel in channels)
    units = row_units(expand_durations(row) if drawn else row, channels, deduplicated and not drawn)
    for channel, labels in zip(channels, units, strict=True):
        if (highest := max(labels)) >= vocoder.units:
            raise InputError(
                f"row {name}, {channel}: unit {highest} is not among those of the vocoder, which has 0 to "
                f"{vocoder.units - 1}: take the vocoder or codebook that belongs to the units"
            )
    if drawn or not deduplicated:
        return units
    if not vocoder.predicts_durations:
        raise InputError(
            f"row {name}: next to no unit is followed by itself, so these units are deduplicated, and speech made from "
            "them would be compressed in time: give their unitA.durations (encode_units.py --deduplicate writes them), "
            "take a vocoder that predicts durations, or pass --duplicated if there is one unit for every frame"
        )
    return [predict_frames(labels, vocoder) for labels in units]


def predict_frames(units: Sequence[int], vocoder: Vocoder) -> list[int]:
    """One unit a frame from deduplicated units, each as long as the vocoder predicts."""
    import torch

    labels = torch.tensor(units)
    repeated: list[int] = torch.repeat_interleave(labels, vocoder.predict_durations(labels)).tolist()
    return repeated
