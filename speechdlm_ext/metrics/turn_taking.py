"""Turn-taking events of conversations, from each channel's speech activity.

Terms and thresholds, and where they are from:

* Pause, gap, overlap within and between speakers: Heldner & Edlund (2010), "Pauses, gaps and overlaps in
  conversations", Journal of Phonetics 38, who read them off the joint state of the channels.
* Inter-pausal units bounded by 200 ms of silence; events and seconds per minute, silence at both ends skipped: Nguyen
  et al. (2022), "Generative Spoken Dialogue Language Modeling", arXiv 2203.16502.
* Floor transfer offset, one signed figure for gaps and overlaps: Veluri et al. (2024), "Beyond Turn-Based Interfaces:
  Synchronous LLMs as Full-Duplex Dialogue Agents" (SyncLLM), arXiv 2409.15594.
* Backchannels and interruptions have no agreed bounds in time; ours are named as such.

Every definition looks the same when time runs backwards and when channels change places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.events import Event, EventList, Events
from speechdlm_ext.metrics.timeline import TICKS, Activity, Timeline, Track, to_ticks

__all__ = ["Event", "EventList", "Events", "TurnTakingOptions", "find_events", "find_events_of_many"]


@dataclass(frozen=True)
class TurnTakingOptions:
    """Thresholds in seconds."""

    ipu_silence: float = 0.2  # silence that bounds an inter-pausal unit (Nguyen et al. 2022)
    max_backchannel: float = 1.0  # ours: a listener's response is not longer
    interruption_overlap: float = 0.2  # ours: talk together before a change of speaker counts as an interruption


def find_events(activity: Activity, duration: float, options: TurnTakingOptions | None = None) -> Events:
    """Find the turn-taking events of one conversation.

    * IPU (inter-pausal unit): speech of one channel that holds no silence of ``ipu_silence`` or more.
    * Silence of all channels between two IPUs: a *pause* if a channel that spoke right before also speaks right after,
      else a *gap*. Silence at the beginning and the end of the recording is neither.
    * Overlap: two or more channels at once. *Within* a turn if the last channel to speak alone before it is the first
      to speak alone after it, *between* turns if that is another one; neither if nobody spoke alone on one side.
    * Backchannel: an IPU of at most ``max_backchannel`` seconds inside another channel's turn, where turns are made
      of the longer IPUs alone; it is not inside such a turn of its own channel.
    * Turn: IPUs of one channel, backchannels apart, in whose pauses no other channel speaks (backchannels again
      apart). A turn may lie inside another channel's: talk that did not win the floor.
    * Floor transfer offset: from the end of a turn to the start of the next one, negative if they overlap; turns inside
      another channel's do not count, nor does one of two turns that begin and end together.
    * Interruption: a floor transfer with ``interruption_overlap`` or more of overlap.

    Args:
        activity: for each channel its speech, intervals (start, end) in seconds, in any order: pairs, or arrays
            (N, 2).
        duration: length of the conversation in seconds; speech outside of 0 to ``duration`` is cut off, intervals
            without length do not count.
        options: thresholds.

    Returns:
        The events, each kind in order of start. Times are rounded to microseconds.
    """
    return find_events_of_many([(activity, duration)], options)


def find_events_of_many(
    conversations: Iterable[tuple[Activity, float]], options: TurnTakingOptions | None = None
) -> Events:
    """As :func:`find_events` on each conversation, all in one go: for large corpora.

    Args:
        conversations: (activity, duration) of each.
        options: thresholds.

    Returns:
        The events of all, each conversation's on its own clock. A long conversation weighs more than a short one.
    """
    options = options or TurnTakingOptions()
    timeline = Timeline(conversations, to_ticks(options.ipu_silence))
    events = Events(
        timeline.durations / TICKS,
        np.stack([t.total(timeline.bounds) for t in timeline.speech], axis=1) / TICKS
        if timeline.width
        else np.zeros((len(timeline.durations), 0)),
        timeline.counts,
    )
    ipus = [track.bridged(to_ticks(options.ipu_silence)) for track in timeline.speech]
    events.ipus = timeline.by_channel(ipus)
    _add_joint_states(events, timeline, ipus)
    _add_turns(events, timeline, ipus, options)
    return events


def _add_joint_states(events: Events, timeline: Timeline, ipus: Sequence[Track]) -> None:
    """Silences and overlaps, from who speaks between each change and the next."""
    changes = [times for track in ipus for times in (track.start, track.end)]
    # Much of this is in order already; np.unique would hash it.
    times = np.sort(np.concatenate(changes), kind="stable") if changes else np.zeros(0, np.int64)
    if not len(times):
        return
    times = times[np.concatenate(([True], times[1:] > times[:-1]))]
    state = np.stack(
        [np.searchsorted(t.start, times, "right") > np.searchsorted(t.end, times, "right") for t in ipus], axis=1
    )
    owner, count = timeline.owner(times), state.sum(axis=1)

    silent = np.flatnonzero(count[:-1] == 0)
    silent = silent[owner[silent] == owner[silent + 1]]
    before, after = state[silent - 1], state[silent + 1]
    same = before & after
    pause = same.any(axis=1)
    start, end = times[silent], times[silent + 1]
    events.pauses = timeline.events(start[pause], end[pause], same[pause])
    events.gaps = timeline.events(start[~pause], end[~pause], (before | after)[~pause])

    edges = np.flatnonzero(np.diff(np.concatenate(([False], count > 1, [False])).astype(np.int8)))
    first, last = edges[::2], edges[1::2]  # of each run of states with several speakers: its first, and one past it
    together = np.logical_or.reduceat(state, edges, axis=0)[::2] if len(edges) else state[:0]
    alone = np.flatnonzero(count == 1)
    left, right = np.searchsorted(alone, first) - 1, np.searchsorted(alone, last)
    known = (left >= 0) & (right < len(alone))
    if len(alone):
        one, other = alone[np.maximum(left, 0)], alone[np.minimum(right, len(alone) - 1)]
        known &= (owner[one] == owner[first]) & (owner[other] == owner[first])
        within = known & (state[one].argmax(axis=1) == state[other].argmax(axis=1))
    else:
        within = known
    start, end = times[first], times[last] if len(last) else first
    events.overlaps = timeline.events(start, end, together)
    events.overlaps_within = timeline.events(start[within], end[within], together[within])
    between = known & ~within
    events.overlaps_between = timeline.events(start[between], end[between], together[between])


def _add_turns(events: Events, timeline: Timeline, ipus: Sequence[Track], options: TurnTakingOptions) -> None:
    """Backchannels, turns, floor transfers and interruptions."""
    longest = to_ticks(options.max_backchannel)
    skeleton = _turns([track.take(track.end - track.start > longest) for track in ipus], timeline)
    listening = [
        (track.end - track.start <= longest)
        & (skeleton[channel].around(track) < 0)
        & _any([other.around(track) >= 0 for other in skeleton], len(track.start))
        for channel, track in enumerate(ipus)
    ]
    events.backchannels = timeline.by_channel([t.take(is_one) for t, is_one in zip(ipus, listening, strict=True)])
    turns = _turns([t.take(~is_one) for t, is_one in zip(ipus, listening, strict=True)], timeline)
    events.turns = timeline.by_channel(turns)

    floor = [
        track.take(~_is_inside(track, turns[:channel] + turns[channel + 1 :])) for channel, track in enumerate(turns)
    ]
    start, end, channel = timeline.sorted(floor)
    new = np.ones(len(start), bool)
    new[1:] = (start[1:] != start[:-1]) | (end[1:] != end[:-1])
    start, end, channel = start[new], end[new], channel[new]
    owner = timeline.owner(start)
    follows = np.flatnonzero(owner[1:] == owner[:-1])
    left, entered = end[follows], start[follows + 1]
    who = channel[:, None] == np.arange(timeline.width)
    events.floor_transfers = timeline.events(left, entered, who[follows] | who[follows + 1])
    broken = entered - left <= -to_ticks(options.interruption_overlap)
    events.interruptions = timeline.events(entered[broken], left[broken], who[follows + 1][broken])


def _turns(tracks: Sequence[Track], timeline: Timeline) -> list[Track]:
    """Each channel's intervals joined over pauses in which no other channel has one."""
    turns = []
    for channel, track in enumerate(tracks):
        left, right = track.end[:-1], track.start[1:]
        taken = _any([t.touches(left, right) for t in (*tracks[:channel], *tracks[channel + 1 :])], len(left))
        turns.append(track.joined(~taken & (timeline.owner(left) == timeline.owner(right))))
    return turns


def _is_inside(track: Track, others: Sequence[Track]) -> NDArray[np.bool_]:
    """Whether each turn lies inside one of ``others``, and is not the same span."""
    inside = np.zeros(len(track.start), bool)
    for other in others:
        place = other.around(track)
        held = place >= 0
        if held.any():
            inside[held] |= (other.start[place[held]] < track.start[held]) | (other.end[place[held]] > track.end[held])
    return inside


def _any(conditions: Sequence[NDArray[np.bool_]], length: int) -> NDArray[np.bool_]:
    return np.logical_or.reduce(conditions) if conditions else np.zeros(length, bool)
