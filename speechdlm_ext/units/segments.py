"""Rows of a unit file cut into segments, those of runs with their durations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import DURATIONS, format_units, parse_units, row_channels

FRAME_RATE = 50.0  # of unit files whose rows do not say theirs


def frame_rate(row: Mapping[str, Any]) -> float:
    """Frames a second of a row."""
    return float(row.get("frame_rate", FRAME_RATE))


def cut_row(row: Mapping[str, Any], start: int, stop: int, segment_seconds: float) -> list[dict[str, Any]]:
    """The frames from start to stop of a row of a unit file as rows of their own, none longer than ``segment_seconds``.

    Each has ``recording``, ``start`` (s) and ``duration`` (s) beside the fields of the row. They are as few as can be,
    and about equally long. Of a run across an edge each side has the frames that lie there.

    Raises:
        InputError: a unit lasts for no frame.
    """
    if stop <= start:
        return []
    rate = frame_rate(row)
    count = -(-(stop - start) // max(1, int(segment_seconds * rate)))
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    segments = []
    for first, last in zip(edges, edges[1:], strict=False):
        streams: dict[str, str] = {}
        for channel in row_channels(row):
            streams |= _cut_channel(row, channel, first, last)
        segments.append(
            {
                **row,
                "audio": f"{row['audio']}-{first:07d}",
                **streams,
                "recording": row["audio"],
                "start": first / rate,
                "duration": (last - first) / rate,
            }
        )
    return segments


def _cut_channel(row: Mapping[str, Any], channel: str, first: int, last: int) -> dict[str, str]:
    """One channel's frames from first to last: its units, with their durations where the row has such."""
    units = parse_units(row[channel])
    if channel + DURATIONS not in row:
        return {channel: format_units(units[first:last])}
    kept: list[tuple[int, int]] = []
    end = 0
    for unit, frames in zip(units, parse_units(row[channel + DURATIONS]), strict=True):
        if frames < 1:
            raise InputError(f"row {row['audio']}, {channel + DURATIONS}: a unit of 0 frames, 1 or more are wanted")
        start, end = end, end + frames
        inside = min(end, last) - max(start, first)
        if inside > 0:
            kept.append((unit, inside))
    return {
        channel: format_units(unit for unit, _ in kept),
        channel + DURATIONS: format_units(frames for _, frames in kept),
    }
