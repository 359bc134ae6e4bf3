"""A player with a timeline: every channel's sound, turns, backchannels, and between them gaps, pauses and overlaps.

What is drawn is data in the page; ``assets/player.js`` draws it, follows the sound, and seeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.events import KINDS, EventList, Events
from speechdlm_ext.metrics.timeline import Activity
from speechdlm_ext.metrics.turn_taking import find_events
from speechdlm_ext.report.page import json_script
from speechdlm_ext.report.sound import Sound, embed_wave

# Floor transfers are seen as the gaps and overlaps that they are; both kinds of overlap are overlaps.
DRAWN = ("turns", "ipus", "backchannels", "pauses", "gaps", "overlaps", "interruptions")


@dataclass(frozen=True)
class Timeline:
    """What is heard and seen.

    Attributes:
        title: plain text.
        events: of one conversation.
        sound: of the same; see :mod:`speechdlm_ext.report.sound`.
        lead: seconds of the sound before the conversation's clock begins; nothing is known of its events.
        parts: (name, start, end) of what is told apart on the axis, such as prompt and continuation, in seconds.
        note: plain text beside the title.
        channels: names of the channels; A, B, … without.
    """

    title: str
    events: Events
    sound: Sound
    lead: float = 0.0
    parts: Sequence[tuple[str, float, float]] = ()
    note: str = ""
    channels: Sequence[str] = field(default=())

    @classmethod
    def of_wave(
        cls,
        title: str,
        wave: NDArray[np.float32],
        sample_rate: int,
        activity: Activity,
        parts: Sequence[tuple[str, float, float]] = (),
        note: str = "",
    ) -> Timeline:
        """With the sound in the page.

        Args:
            title: plain text.
            wave: samples (C, N), full scale 1.
            sample_rate: Hz.
            activity: for each channel its stretches of speech, (start, end) in seconds.
            parts: see the class.
            note: see the class.
        """
        events = find_events(activity, wave.shape[1] / sample_rate)
        return cls(title, events, embed_wave(wave, sample_rate), parts=parts, note=note)

    @property
    def duration(self) -> float:
        """Seconds that are shown."""
        return self.lead + self.events.duration

    def data(self) -> dict[str, Any]:
        """JSON values for ``assets/player.js``; times in seconds, to the millisecond."""
        width = int(self.events.channel_counts.max()) if self.events.conversations else 0
        return {
            "title": self.title,
            "note": self.note,
            "duration": round(self.duration, 3),
            "lead": round(self.lead, 3),
            "channels": [channel_name(number, self.channels) for number in range(width)],
            "parts": [[name, round(start, 3), round(end, 3)] for name, start, end in self.parts],
            "outlines": list(self.sound.outlines),
            "events": {KINDS[kind]: _rows(getattr(self.events, kind), self.lead) for kind in DRAWN},
            "sources": list(self.sound.sources),
            "offset": round(self.sound.offset, 6),
        }

    def render(self) -> str:
        """The figure as HTML, with the sound in it or linked."""
        title = escape(self.title)
        return (
            f'<figure class="timeline"><figcaption><b title="{title}">{title}</b><span>{escape(self.note)}</span>'
            f"</figcaption>{json_script(self.data())}</figure>"
        )


def channel_name(number: int, names: Sequence[str] = ()) -> str:
    """The channel's name, or a letter where it has none; after Z numbers."""
    if number < len(names) and names[number]:
        return names[number]
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def _rows(events: EventList, lead: float) -> list[list[float | int]]:
    """Start, end, and the channels as bits."""
    bits = [sum(1 << int(channel) for channel in row.nonzero()[0]) for row in events.channels]
    return [
        [round(start + lead, 3), round(end + lead, 3), mask]
        for start, end, mask in zip(events.start.tolist(), events.end.tolist(), bits, strict=True)
    ]
