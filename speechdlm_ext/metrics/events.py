"""Turn-taking events as columns, of one conversation or of many: what turn_taking.py finds and summary.py counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Event:
    """Something that lasts from ``start`` to ``end`` (seconds); ``channels`` are those that it is about."""

    start: float
    end: float
    channels: tuple[int, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


class EventList(Sequence[Event]):
    """Events of one kind, in order of conversation and start; an item is an :class:`Event`.

    Args:
        start: seconds on the conversation's own clock, (N,).
        end: likewise.
        channels: which channels each event is about, (N, C) of bool.
        conversation: number of the conversation that each is of, (N,); all 0 by default.
    """

    def __init__(
        self,
        start: NDArray[np.float64],
        end: NDArray[np.float64],
        channels: NDArray[np.bool_],
        conversation: NDArray[np.int64] | None = None,
    ) -> None:
        self.start, self.end, self.channels = start, end, channels
        self.conversation = np.zeros(len(start), np.int64) if conversation is None else conversation

    @classmethod
    def empty(cls, channels: int = 0) -> EventList:
        """No events of ``channels`` channels."""
        return cls(np.zeros(0), np.zeros(0), np.zeros((0, channels), bool))

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds, (N,); of floor transfers signed, to the microsecond."""
        return np.round(self.end - self.start, 6)

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        who = tuple(map(int, np.flatnonzero(self.channels[index])))
        return Event(float(self.start[index]), float(self.end[index]), who)

    def __iter__(self) -> Iterator[Event]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return f"EventList({list(self)!r})"


# The kinds of events, as attributes of Events, with the name that each has in figures.
KINDS = {
    "ipus": "ipu",
    "pauses": "pause",
    "gaps": "gap",
    "overlaps": "overlap",
    "overlaps_within": "overlap_within",
    "overlaps_between": "overlap_between",
    "turns": "turn",
    "backchannels": "backchannel",
    "interruptions": "interruption",
    "floor_transfers": "floor_transfer_offset",
}


@dataclass
class Events:
    """All events of one conversation, or of several.

    Attributes:
        durations: seconds observed of each conversation, (K,).
        channel_speech: seconds of speech as detected, of each conversation and channel, (K, C).
        channel_counts: how many channels each conversation has, (K,).
        ipus, pauses, …: the events of each kind; see :func:`speechdlm_ext.metrics.turn_taking.find_events`.
        floor_transfers: from the end of a turn (``start``) to the start of the next one (``end``): where they overlap,
            the duration is negative.
    """

    durations: NDArray[np.float64]
    channel_speech: NDArray[np.float64]
    channel_counts: NDArray[np.int64]
    ipus: EventList = field(default_factory=EventList.empty)
    pauses: EventList = field(default_factory=EventList.empty)
    gaps: EventList = field(default_factory=EventList.empty)
    overlaps: EventList = field(default_factory=EventList.empty)
    overlaps_within: EventList = field(default_factory=EventList.empty)
    overlaps_between: EventList = field(default_factory=EventList.empty)
    turns: EventList = field(default_factory=EventList.empty)
    backchannels: EventList = field(default_factory=EventList.empty)
    interruptions: EventList = field(default_factory=EventList.empty)
    floor_transfers: EventList = field(default_factory=EventList.empty)

    @property
    def duration(self) -> float:
        """Seconds observed in all."""
        return float(self.durations.sum())

    @property
    def speech(self) -> list[float]:
        """Seconds of speech of each channel, as detected, in all."""
        return [float(seconds) for seconds in self.channel_speech.sum(axis=0)]

    @property
    def conversations(self) -> int:
        """How many conversations there are."""
        return len(self.durations)


def select_conversations(events: Events, chosen: Sequence[int] | NDArray[np.int64]) -> Events:
    """The events of some of the conversations, numbered anew in the order of ``chosen`` (each at most once)."""
    chosen = np.asarray(chosen, np.int64)
    place = np.full(events.conversations, -1)
    place[chosen] = np.arange(len(chosen))
    part = Events(events.durations[chosen], events.channel_speech[chosen], events.channel_counts[chosen])
    for name in KINDS:
        column: EventList = getattr(events, name)
        number = place[column.conversation] if len(column) else np.zeros(0, np.int64)
        keep = np.flatnonzero(number >= 0)
        keep = keep[np.argsort(number[keep], kind="stable")]
        setattr(part, name, EventList(column.start[keep], column.end[keep], column.channels[keep], number[keep]))
    return part


def one_conversation(events: Events, number: int) -> Events:
    """The events of one conversation; quick, as events are in order of conversation."""
    part = Events(
        events.durations[number : number + 1],
        events.channel_speech[number : number + 1],
        events.channel_counts[number : number + 1],
    )
    for name in KINDS:
        column: EventList = getattr(events, name)
        first, last = np.searchsorted(column.conversation, [number, number + 1])
        own = slice(int(first), int(last))
        setattr(part, name, EventList(column.start[own], column.end[own], column.channels[own]))
    return part
