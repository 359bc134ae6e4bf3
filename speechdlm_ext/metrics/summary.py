"""Figures of a corpus: number and seconds a minute, mean and median of each kind of turn-taking event."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from speechdlm_ext.metrics.turn_taking import EVENT_NAMES, Events

# The names under which the figures are given, in the order in which they are shown.
SINGULAR = {
    "ipus": "ipu",
    "pauses": "pause",
    "gaps": "gap",
    "overlaps": "overlap",
    "overlaps_within": "overlap_within",
    "overlaps_between": "overlap_between",
    "turns": "turn",
    "backchannels": "backchannel",
    "interruptions": "interruption",
}


def pool_events(conversations: Iterable[Events]) -> Events:
    """The events of several conversations together: a long conversation weighs more than a short one."""
    pooled = Events(0.0, [])
    for events in conversations:
        pooled.extend(events)
    return pooled


def describe(durations: Sequence[float], minutes: float) -> dict[str, float | int | None]:
    """Figures of one kind of event.

    Args:
        durations: seconds.
        minutes: of conversation that was observed.

    Returns:
        ``n``, ``per_minute``, ``seconds_per_minute``, ``mean`` and ``median`` (seconds); what there is nothing to say
        about (no event, no time) is None, never 0.
    """
    return {
        "n": len(durations),
        "per_minute": len(durations) / minutes if minutes else None,
        "seconds_per_minute": sum(durations) / minutes if minutes else None,
        "mean": statistics.fmean(durations) if durations else None,
        "median": statistics.median(durations) if durations else None,
    }


def summarise(events: Events) -> dict[str, Any]:
    """All figures of (pooled) events.

    Returns:
        For each kind of event the figures of :func:`describe`; ``floor_transfer_offset`` likewise (signed seconds);
        ``speech_share``, for each channel the share of the time in which it speaks; ``minutes`` observed.
    """
    minutes = events.duration / 60
    figures: dict[str, Any] = {"minutes": minutes}
    figures["speech_share"] = [speech / events.duration for speech in events.speech] if events.duration else None
    for name in EVENT_NAMES:
        figures[SINGULAR[name]] = describe([event.duration for event in getattr(events, name)], minutes)
    figures["floor_transfer_offset"] = describe(events.offsets, minutes)
    return figures
