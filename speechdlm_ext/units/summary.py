"""What a unit file holds, in the figures that one compares codebooks by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from speechdlm_ext.units.files import DURATIONS, row_channels


@dataclass
class UnitSummary:
    """Counts over the rows of a unit file.

    A *unit* here is a run of equal units, however many frames it lasts. Bits per second are units per second times the
    entropy of the distribution of the units, as bitrates of deduplicated units are given; durations are not counted.

    Attributes:
        recordings: rows.
        seconds: of the recordings.
        channels: of all recordings together.
        frames: of all channels.
        counts: how often each unit occurs.
        channel_seconds: of all channels.
    """

    recordings: int = 0
    seconds: float = 0.0
    channels: int = 0
    frames: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    channel_seconds: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row, one unit a frame or deduplicated."""
        names = row_channels(row)
        for name in names:
            labels = row[name].split()
            runs = labels if name + DURATIONS in row else [label for label, _ in groupby(labels)]
            frames = sum(map(int, row[name + DURATIONS].split())) if name + DURATIONS in row else len(labels)
            self.counts.update(runs)
            self.frames += frames
            self.channel_seconds += frames / row["frame_rate"]
        self.recordings += 1
        self.channels += len(names)
        self.seconds += frames / row["frame_rate"]

    @property
    def units(self) -> int:
        """Runs of equal units in all channels."""
        return self.counts.total()

    @property
    def units_per_second(self) -> float:
        """Of a channel."""
        return self.units / self.channel_seconds if self.channel_seconds else 0.0

    @property
    def bits_per_second(self) -> float:
        """Of a channel."""
        total = self.units
        entropy = sum(count / total * math.log2(total / count) for count in self.counts.values())
        return self.units_per_second * entropy

    def lines(self, left_out: int = 0, speed: float | None = None) -> list[str]:
        """What to print at the end.

        Args:
            left_out: recordings that could not be encoded.
            speed: seconds of sound that were encoded in a second, if any were.
        """
        fast = "" if speed is None else f", {speed:.3g} × real time"
        return [
            f"{self.recordings:,} recordings, {self.seconds / 3600:.3f} h, {self.channels:,} channels; "
            f"{left_out:,} skipped{fast}",
            f"{self.frames:,} frames, {self.units:,} units ({len(self.counts):,} different); a channel has "
            f"{self.units_per_second:.1f} units/s, {self.bits_per_second:.1f} bits/s",
        ]


def summarize(rows: Iterable[Mapping[str, Any]]) -> UnitSummary:
    """The summary of the rows of a unit file."""
    summary = UnitSummary()
    for row in rows:
        summary.add(row)
    return summary
