"""What each figure of an evaluation is, in one line, and how it is called on a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A figure's name on a page, its unit, and one line that says what it is."""

    label: str
    meaning: str
    unit: str = ""


# Kinds of events, in the order of metrics.events.KINDS.
EVENTS = {
    "ipu": Term("Speech (IPU)", "Inter-pausal unit: one voice's speech, bounded by 200 ms of silence or more"),
    "pause": Term("Pause", "Silence of all, after which one who spoke goes on"),
    "gap": Term("Gap", "Silence of all, after which another speaks"),
    "overlap": Term("Overlap", "Two or more speak at once"),
    "overlap_within": Term("Overlap, within a turn", "Both speak, and the one who spoke before goes on alone"),
    "overlap_between": Term("Overlap, between turns", "Both speak, and then the other goes on alone"),
    "turn": Term("Turn", "One voice's speech with its pauses, until another has the floor; backchannels left out"),
    "backchannel": Term("Backchannel", "A short IPU inside another's turn, such as mm-hm"),
    "interruption": Term("Interruption", "A change of speaker with 200 ms of overlap or more"),
    "floor_transfer_offset": Term(
        "Floor transfer", "From the end of a turn to the next one's start; overlaps count below 0"
    ),
}

# What is said of each kind of event.
MEASURES = {
    "per_minute": Term("a minute", "Number of events in a minute of conversation", "/min"),
    "seconds_per_minute": Term("seconds a minute", "Seconds of such events in a minute of conversation", "s/min"),
    "mean": Term("mean", "Mean length", "s"),
    "median": Term("median", "Length that half of the events stay below", "s"),
    "n": Term("events", "Number of events found"),
}


def spell(key: str) -> str:
    """A key of ``metrics.json`` as words: ``bits_per_edge`` is *bits per edge*."""
    return key.replace("_", " ").strip()
