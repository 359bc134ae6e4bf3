"""Rows of a unit file to one unit a frame: deduplicated units last as long as they should, or are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import eq
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import DURATIONS, expand_durations, row_channels, row_units
from speechdlm_ext.vocoders.base import UtteranceVocoder

if TYPE_CHECKING:
    from speechdlm_ext.vocoders.base import Vocoder

# In a file that does not say it: so many units without one that is followed by itself are deduplicated.
_TELLING = 20


def are_deduplicated(rows: Sequence[Mapping[str, Any]], say: Callable[[str], object] = lambda line: None) -> list[bool]:
    """Whether the units of each row have lost their repetitions, and come without durations.

    Our own files say it (``"deduplicated"``). Rows of other files are taken as deduplicated if, in all of these rows
    together, at least 20 units are followed by another and none by itself; channels of equal length are those of a
    dialogue, side by side in time, with one unit a frame.

    Args:
        rows: of a unit file.
        say: told what was assumed.

    Returns:
        One for each row; False for rows with durations, whose frames are known.
    """
    foreign = [row for row in rows if _says(row) is None]
    counts = [_count_repeats(row) for row in foreign if not _in_step(row)]
    guess = sum(units for _, units in counts) >= _TELLING and not any(repeats for repeats, _ in counts)
    if foreign:
        what = "deduplicated, as no unit is followed by itself" if guess else "one unit a frame"
        say(f'{len(foreign)} of {len(rows)} rows do not say "deduplicated": they are taken as {what}')
    judged: list[bool] = []
    for row in rows:
        said = _says(row)
        judged.append(guess and not _in_step(row) if said is None else said)
    return judged


def _says(row: Mapping[str, Any]) -> bool | None:
    """What the row says of itself; None if nothing."""
    if any(channel + DURATIONS in row for channel in row_channels(row)):
        return False
    said = row.get("deduplicated")
    if said is not None and not isinstance(said, bool):
        raise InputError(f'row {row.get("audio", "?")}: "deduplicated": {said!r}, expected true or false')
    return said


def _in_step(row: Mapping[str, Any]) -> bool:
    lengths = [len(row[channel].split()) for channel in row_channels(row)]
    return len(lengths) > 1 and len(set(lengths)) == 1


def _count_repeats(row: Mapping[str, Any]) -> tuple[int, int]:
    """How many units are followed by themselves, and how many by any."""
    units = [row[channel].split() for channel in row_channels(row)]
    return sum(sum(map(eq, own, own[1:])) for own in units), sum(max(0, len(own) - 1) for own in units)


def frame_units(row: Mapping[str, Any], vocoder: Vocoder, deduplicated: bool = False) -> list[list[int]]:
    """The units of each channel of a row, one a frame.

    Args:
        row: of a unit file; a channel ``unitA`` that is deduplicated has ``unitA.durations``, the frames of each unit.
        vocoder: tells the durations of deduplicated units that come without.
        deduplicated: whether units without durations are deduplicated.

    Returns:
        (C, T); with predicted durations, channels may differ in length. Units stay deduplicated for a vocoder that
        makes sound of such.

    Raises:
        InputError: a channel is missing or not right, a unit is not among the vocoder's, durations do not fit their
            units, or are needed and not there.
    """
    name, channels = row.get("audio", "?"), row_channels(row)
    drawn = any(channel + DURATIONS in row for channel in channels)
    units = row_units(expand_durations(row) if drawn else row, channels, deduplicated and not drawn)
    for channel, labels in zip(channels, units, strict=True):
        if (highest := max(labels)) >= vocoder.num_units:
            raise InputError(
                f"row {name}, {channel}: unit {highest} is not among those of the vocoder, which has 0 to "
                f"{vocoder.num_units - 1}: take the vocoder or codebook that belongs to the units"
            )
    if drawn or not deduplicated or isinstance(vocoder, UtteranceVocoder):
        return units
    if not vocoder.predicts_durations:
        raise InputError(
            f"row {name}: its units are deduplicated, and speech made from them would be compressed in time: give "
            "their unitA.durations (encode_units.py --deduplicate writes them), take a vocoder that predicts "
            "durations, or pass --frame-level if there is one unit for every frame"
        )
    return [predict_frames(labels, vocoder) for labels in units]


def predict_frames(units: Sequence[int], vocoder: Vocoder) -> list[int]:
    """One unit a frame from deduplicated units, each as long as the vocoder predicts."""
    import torch

    labels = torch.tensor(units)
    repeated: list[int] = torch.repeat_interleave(labels, vocoder.predict_durations(labels)).tolist()
    return repeated
