"""A corpus as it is judged: its dialogues, what was measured of them, and the part of each that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.evaluation.corpus import Dialogue
from speechdlm_ext.evaluation.measure_dialogue import Measurement
from speechdlm_ext.evaluation.prompts import Pair
from speechdlm_ext.metrics.events import Events
from speechdlm_ext.metrics.intervals import crop_intervals, shift_intervals
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions, find_events_of_many


@dataclass
class Side:
    """One corpus as it is judged: dialogues in order, with the part of each that counts.

    Attributes:
        dialogues, measurements: of each dialogue.
        windows: second at which the part begins, and its length.
        leads: seconds before that which belong to the dialogue, as a prompt does.
    """

    dialogues: list[Dialogue]
    measurements: list[Measurement]
    windows: list[tuple[float, float]]
    leads: list[float]
    events: Events = field(init=False)

    def find_events(self, options: TurnTakingOptions) -> None:
        """Fill ``events``."""
        talks = []
        for measurement, (start, seconds) in zip(self.measurements, self.windows, strict=True):
            parts = [crop_intervals(channel, start, start + seconds) for channel in measurement.activity]
            talks.append(([shift_intervals(part, -start) for part in parts], seconds))
        self.events = find_events_of_many(talks, options)

    def units(self) -> list[list[NDArray[np.int32]]]:
        """The units of each dialogue's channels within its window; empty where there are none."""
        found = []
        for dialogue, (start, seconds) in zip(self.dialogues, self.windows, strict=True):
            rate = dialogue.frame_rate
            first, last = round(start * rate), round((start + seconds) * rate)
            found.append([channel[first:last] for channel in dialogue.units])
        return found


def whole_side(dialogues: Sequence[Dialogue], measurements: Mapping[str, Measurement]) -> Side:
    """Whole dialogues, those that could be measured."""
    known = [dialogue for dialogue in dialogues if dialogue.name in measurements]
    own = [measurements[dialogue.name] for dialogue in known]
    return Side(known, own, [(0.0, m.duration) for m in own], [0.0] * len(own))


def continuation_side(
    dialogues: Sequence[Dialogue], measurements: Mapping[str, Measurement], pairs: Sequence[Pair]
) -> Side:
    """The generated continuations alone."""
    by_name = {dialogue.name: dialogue for dialogue in dialogues}
    return Side(
        [by_name[pair.generated] for pair in pairs],
        [measurements[pair.generated] for pair in pairs],
        [(pair.generated_start, pair.seconds) for pair in pairs],
        [pair.lead for pair in pairs],
    )
