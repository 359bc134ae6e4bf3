"""A player with a timeline: every channel's waveform, turns, backchannels, and below them gaps, pauses and overlaps.

It is data in the page, which ``assets/player.js`` draws; it follows the audio, and seeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.evaluation.schema import channel_name
from speechdlm_ext.metrics.events import KINDS, EventList, Events
from speechdlm_ext.metrics.timeline import Activity
from speechdlm_ext.metrics.turn_taking import find_events
from speechdlm_ext.report.page import json_script
from speechdlm_ext.report.sound import Sound, embed_wave

# Floor transfers appear as gaps and overlaps; both kinds of overlap are overlaps.
DRAWN = ("turns", "ipus", "backchannels", "pauses", "gaps", "overlaps", "interruptions")


@dataclass(frozen=True)
class Player:
    """One dialogue of a player.

    Attributes:
        title: plain text.
        events: of one dialogue.
        sound: its audio; see :mod:`speechdlm_ext.report.sound`.
        lead: seconds of audio before the events' clock begins, such as a prompt.
        parts: (name, start, end) in seconds, such as prompt and continuation.
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
    ) -> Player:
        """With the audio in the page.

        Args:
            title: plain text.
            wave: samples (C, N), full scale 1.
            sample_rate: Hz.
            activity: for each channel its speech, (start, end) in seconds.
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
        """The figure as HTML, with the audio in it or linked."""
        title = escape(self.title)
        return (
            f'<figure class="timeline"><figcaption><b title="{title}">{title}</b><span>{escape(self.note)}</span>'
            f"</figcaption>{json_script(self.data())}</figure>"
        )


def _rows(events: EventList, lead: float) -> list[list[float | int]]:
    """Start, end, and the channels as bits."""
    bits = [sum(1 << int(channel) for channel in row.nonzero()[0]) for row in events.channels]
    return [
        [round(start + lead, 3), round(end + lead, 3), mask]
        for start, end, mask in zip(events.start.tolist(), events.end.tolist(), bits, strict=True)
    ]
