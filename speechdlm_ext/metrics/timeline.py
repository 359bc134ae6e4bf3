"""Speech of many conversations on one clock of whole microseconds, so that all of them are worked on at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.events import EventList
from speechdlm_ext.metrics.intervals import Interval

TICKS = 1_000_000  # a second: times are compared as whole microseconds, so that 0.7 - 0.5 is 0.2

Activity = Sequence[Sequence[Interval]]
Times = NDArray[np.int64]


def to_ticks(seconds: float) -> int:
    """Whole microseconds."""
    return round(seconds * TICKS)


@dataclass(frozen=True)
class Track:
    """Intervals of one channel, in order and apart from each other, in ticks on the timeline of all conversations."""

    start: Times
    end: Times

    def take(self, chosen: NDArray[np.bool_]) -> Track:
        return Track(self.start[chosen], self.end[chosen])

    def bridged(self, shortest: int) -> Track:
        """Neighbours joined that are less than ``shortest`` apart."""
        return self.joined(self.start[1:] - self.end[:-1] < shortest)

    def joined(self, same: NDArray[np.bool_]) -> Track:
        """Neighbours joined where ``same`` (N - 1,) is true."""
        if not len(self.start):
            return self
        cut = np.flatnonzero(~same)
        return Track(self.start[np.concatenate(([0], cut + 1))], self.end[np.concatenate((cut, [len(self.end) - 1]))])

    def touches(self, start: Times, end: Times) -> NDArray[np.bool_]:
        """Whether any interval overlaps each span (M,)."""
        return np.searchsorted(self.start, end, "left") > np.searchsorted(self.end, start, "right")

    def around(self, other: Track) -> Times:
        """For each interval of ``other``, the number of the own one that contains it, or -1."""
        place = np.searchsorted(self.start, other.start, "right") - 1
        if not len(self.end):
            return np.full(len(other.start), -1)
        return np.where((place >= 0) & (self.end[place] >= other.end), place, -1)

    def total(self, bounds: Times) -> Times:
        """Ticks of each conversation, which begin at ``bounds``, (K,)."""
        owner = np.searchsorted(bounds, self.start, "right") - 1
        return np.bincount(owner, self.end - self.start, len(bounds)).astype(np.int64)


class Timeline:
    """All conversations one after another on one clock, so far apart that no event reaches from one to the next."""

    def __init__(self, conversations: Iterable[tuple[Activity, float]], silence: int) -> None:
        items = list(conversations)
        self.durations: Times = np.array([to_ticks(max(0.0, duration)) for _, duration in items], np.int64)
        self.counts: Times = np.array([len(activity) for activity, _ in items], np.int64)
        self.width = int(self.counts.max()) if items else 0
        apart = silence + TICKS
        self.bounds: Times = np.concatenate(([0], np.cumsum(self.durations + apart)))[:-1].astype(np.int64)
        self.speech = [self._track([a[c] if c < len(a) else () for a, _ in items]) for c in range(self.width)]

    def _track(self, intervals: Sequence[Sequence[Interval]]) -> Track:
        """One channel's speech: cut to the recordings, sorted, and joined where intervals meet."""
        sizes = [len(part) for part in intervals]
        pairs = [
            np.asarray(part, np.float64).reshape(-1, 2) for part, size in zip(intervals, sizes, strict=True) if size
        ]
        if not pairs:
            return Track(np.zeros(0, np.int64), np.zeros(0, np.int64))
        owner = np.repeat(np.arange(len(sizes)), sizes)
        ticks = np.rint(np.clip(np.concatenate(pairs) * TICKS, 0, self.durations[owner][:, None])).astype(np.int64)
        ticks += self.bounds[owner][:, None]
        ticks = ticks[ticks[:, 1] > ticks[:, 0]]
        ticks = ticks[np.argsort(ticks[:, 0], kind="stable")]
        reach = np.maximum.accumulate(ticks[:, 1]) if len(ticks) else ticks[:, 1]
        return Track(ticks[:, 0], reach).joined(ticks[1:, 0] <= reach[:-1])

    def owner(self, time: Times) -> Times:
        """Number of the conversation that each time is of."""
        return np.searchsorted(self.bounds, time, "right") - 1

    def events(self, start: Times, end: Times, channels: NDArray[np.bool_]) -> EventList:
        """Spans on this clock as events on their conversations' clocks."""
        owner = self.owner(np.minimum(start, end))
        origin = self.bounds[owner] if len(owner) else owner
        return EventList((start - origin) / TICKS, (end - origin) / TICKS, channels, owner)

    def by_channel(self, tracks: Sequence[Track]) -> EventList:
        """The intervals of all channels as events, in order of start, end and channel."""
        start, end, channel = self.sorted(tracks)
        return self.events(start, end, channel[:, None] == np.arange(self.width))

    def sorted(self, tracks: Sequence[Track]) -> tuple[Times, Times, Times]:
        """Start, end and channel of the intervals of all channels, in that order."""
        channel = np.repeat(np.arange(len(tracks)), [len(track.start) for track in tracks])
        start = np.concatenate([track.start for track in tracks] or [channel])
        end = np.concatenate([track.end for track in tracks] or [channel])
        order = np.lexsort((channel, end, start))
        return start[order], end[order], channel[order]
