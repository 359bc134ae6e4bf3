"""Turn-taking events of a conversation, from each channel's speech activity.

The terms follow Heldner & Edlund (2010), "Pauses, gaps and overlaps in conversations", Journal of Phonetics 38, and
Nguyen et al. (2022), "Generative Spoken Dialogue Language Modeling", arXiv 2203.16502, which bounds inter-pausal
units by 200 ms of silence. Thresholds for which there is no agreed figure are named as ours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from speechdlm_ext.metrics.intervals import Interval, bridge_silences, crop_intervals, join_intervals


@dataclass(frozen=True)
class TurnTakingOptions:
    """Thresholds in seconds."""

    ipu_silence: float = 0.2  # silence that bounds an inter-pausal unit
    backchannel_longest: float = 1.0  # ours: a listener's response is not longer
    interruption_overlap: float = 0.2  # ours: talk together before a change of speaker counts as an interruption


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


@dataclass
class Events:
    """All events of one conversation (or of several, joined by :meth:`extend`).

    ``duration`` is the time observed, in seconds; ``speech`` the seconds of speech of each channel, as detected;
    ``offsets`` the floor transfer offsets in seconds, negative for overlaps.
    """

    duration: float
    speech: list[float]
    ipus: list[Event] = field(default_factory=list)
    pauses: list[Event] = field(default_factory=list)
    gaps: list[Event] = field(default_factory=list)
    overlaps: list[Event] = field(default_factory=list)
    overlaps_within: list[Event] = field(default_factory=list)
    overlaps_between: list[Event] = field(default_factory=list)
    turns: list[Event] = field(default_factory=list)
    backchannels: list[Event] = field(default_factory=list)
    interruptions: list[Event] = field(default_factory=list)
    offsets: list[float] = field(default_factory=list)

    def extend(self, other: Events) -> None:
        """Add the events of another conversation; its times stay on its own clock."""
        self.duration += other.duration
        width = max(len(self.speech), len(other.speech))
        mine, theirs = (list(s) + [0.0] * (width - len(s)) for s in (self.speech, other.speech))
        self.speech = [a + b for a, b in zip(mine, theirs, strict=True)]
        for name in EVENT_NAMES:
            getattr(self, name).extend(getattr(other, name))
        self.offsets.extend(other.offsets)


EVENT_NAMES = (
    "ipus",
    "pauses",
    "gaps",
    "overlaps",
    "overlaps_within",
    "overlaps_between",
    "turns",
    "backchannels",
    "interruptions",
)


def find_events(
    activity: Sequence[Sequence[Interval]], duration: float, options: TurnTakingOptions | None = None
) -> Events:
    """Find the turn-taking events of one conversation.

    * IPU (inter-pausal unit): speech of one channel that holds no silence of ``ipu_silence`` or more.
    * Silence of all channels between two IPUs: a *pause* if a channel that spoke right before also speaks right after,
      else a *gap*. Silence at the beginning and the end of the recording is neither.
    * Overlap: two or more channels at once. *Within* a turn if the last channel to speak alone before it is the first
      to speak alone after it, *between* turns if that is another one; neither if nobody spoke alone on one side.
    * Backchannel: an IPU of at most ``backchannel_longest`` seconds between (or during) two longer IPUs of one other
      channel, or during one of them: the other goes on as if nothing had been said.
    * Turn: the IPUs of one channel, backchannels left out, up to the next IPU of another channel.
    * Floor transfer offset: from the end of a turn to the start of the next one; negative if they overlap.
    * Interruption: a turn that begins ``interruption_overlap`` or more before the end of the one before it, and
      outlasts it.

    Args:
        activity: for each channel its stretches of speech (start, end) in seconds, in any order.
        duration: length of the conversation in seconds; speech outside of 0 to ``duration`` is cut off.
        options: thresholds.

    Returns:
        The events, each kind in order of start.
    """
    options = options or TurnTakingOptions()
    speech = [join_intervals(crop_intervals(channel, 0.0, duration)) for channel in activity]
    events = Events(duration, [sum(b - a for a, b in channel) for channel in speech])
    events.ipus = sorted(
        (
            Event(a, b, (number,))
            for number, channel in enumerate(speech)
            for a, b in bridge_silences(channel, options.ipu_silence)
        ),
        key=lambda e: (e.start, e.end, e.channels),
    )
    _add_joint_states(events)
    _add_turns(events, options)
    return events


def _states(ipus: list[Event]) -> Iterator[tuple[float, float, frozenset[int]]]:
    """The timeline as (start, end, channels that speak), from the first start of speech to its last end."""
    changes = sorted({time for ipu in ipus for time in (ipu.start, ipu.end)})
    starts: dict[float, list[int]] = {}
    ends: dict[float, list[int]] = {}
    for ipu in ipus:
        starts.setdefault(ipu.start, []).append(ipu.channels[0])
        ends.setdefault(ipu.end, []).append(ipu.channels[0])
    active: set[int] = set()
    for start, end in zip(changes, changes[1:], strict=False):
        active.difference_update(ends.get(start, ()))
        active.update(starts.get(start, ()))
        yield start, end, frozenset(active)


def _add_joint_states(events: Events) -> None:
    """Silences and overlaps."""
    states = list(_states(events.ipus))
    after_solo: list[int | None] = [None] * len(states)  # who next speaks alone, after each state
    following = None
    for number in range(len(states) - 1, -1, -1):
        after_solo[number] = following
        following = next(iter(states[number][2])) if len(states[number][2]) == 1 else following
    previous = None
    number = 0
    while number < len(states):
        start, end, channels = states[number]
        if not channels:
            same = states[number - 1][2] & states[number + 1][2]
            around = tuple(sorted(same or states[number - 1][2] | states[number + 1][2]))
            (events.pauses if same else events.gaps).append(Event(start, end, around))
        elif len(channels) == 1:
            previous = next(iter(channels))
        else:
            together = set(channels)
            while number + 1 < len(states) and len(states[number + 1][2]) > 1:
                number += 1
                together |= states[number][2]
            overlap = Event(start, states[number][1], tuple(sorted(together)))
            events.overlaps.append(overlap)
            if previous is not None and after_solo[number] is not None:
                within = previous == after_solo[number]
                (events.overlaps_within if within else events.overlaps_between).append(overlap)
        number += 1


def _add_turns(events: Events, options: TurnTakingOptions) -> None:
    """Backchannels, turns, offsets and interruptions."""
    main = [ipu for ipu in events.ipus if ipu.duration > options.backchannel_longest]
    events.backchannels = [ipu for ipu in events.ipus if _is_backchannel(ipu, main, options)]
    listening = set(events.backchannels)
    for ipu in events.ipus:
        if ipu in listening:
            continue
        if events.turns and events.turns[-1].channels == ipu.channels:
            events.turns[-1] = Event(events.turns[-1].start, ipu.end, ipu.channels)
        else:
            events.turns.append(ipu)
    for before, after in zip(events.turns, events.turns[1:], strict=False):
        offset = after.start - before.end
        events.offsets.append(offset)
        if offset <= -options.interruption_overlap and after.end > before.end:
            events.interruptions.append(Event(after.start, before.end, after.channels))


def _is_backchannel(ipu: Event, main: list[Event], options: TurnTakingOptions) -> bool:
    """Whether a short ``ipu`` lies inside the turn of another channel; ``main`` are the longer ones, by start."""
    if ipu.duration > options.backchannel_longest:
        return False
    place = bisect_right(main, ipu.start, key=lambda e: e.start)
    if place == 0 or main[place - 1].channels == ipu.channels:
        return False
    before = main[place - 1]
    return before.end >= ipu.end or (place < len(main) and main[place].channels == before.channels)
