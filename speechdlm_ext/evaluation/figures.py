"""All figures of an evaluation as one JSON value, the content of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechdlm_ext.evaluation.corpus import Dialogue
from speechdlm_ext.evaluation.measuring import Measurement
from speechdlm_ext.evaluation.prompts import Pair
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.comparison import compare, compare_halves
from speechdlm_ext.metrics.correlation import correlate
from speechdlm_ext.metrics.events import Events
from speechdlm_ext.metrics.intervals import crop_intervals, shift_intervals, total_seconds
from speechdlm_ext.metrics.sound import pool_sound
from speechdlm_ext.metrics.summary import summarise
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions, find_events_of_many
from speechdlm_ext.metrics.unit_figures import compare_units, unit_figures
from speechdlm_ext.metrics.words import error_rates, talk_figures

VERSION = 1  # of the schema: counted up when a name or a meaning changes
MEASURES = {
    "n": "events",
    "per_minute": "events a minute of conversation",
    "seconds_per_minute": "seconds a minute of conversation",
    "mean": "seconds",
    "median": "seconds",
    "quantiles": "seconds, by share of the events",
    "interval": "of the measure named, [low, high]",
    "wasserstein": "seconds",
    "r": "Pearson correlation over prompts",
    "speech_share": "share of the time, for each channel",
    "floor_transfer_offset": "signed seconds, negative for overlaps",
    "minutes": "minutes",
    "unit_rate": "runs of equal units a second",
    "mean_run": "seconds",
    "entropy": "bits a run",
    "frame_entropy": "bits a frame",
    "bitrate": "bits a second, durations left out",
    "bitrate_with_durations": "bits a second",
    "repetition": "share of 4-grams of runs",
    "novelty": "share of 4-grams of runs",
    "jensen_shannon": "bits",
    "level": "dB re full scale",
    "peak": "dB re full scale",
    "clipped": "share of the samples",
    "silent": "share of the samples",
    "bandwidth": "Hz",
    "dc": "share of full scale",
    "snr": "dB",
    "edge_bits": "bits a unit that differs from the one before it",
    "unit_bits": "bits a frame",
    "duration_error": "frames",
    "take_over_rate": "share of the samples",
    "early_take_over_rate": "share of the samples",
    "latency": "seconds",
    "median_latency": "seconds",
    "backchannel_frequency": "backchannels a second of the user's turn",
    "words_per_minute": "words a minute of one channel",
    "words_per_minute_of_speech": "words a minute of speech",
    "filler_share": "share of the words",
    "corpus": "errors over reference length",
}


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

    def units(self) -> list[list[np.ndarray]]:
        """The units of each dialogue's channels within its window; empty where there are none."""
        found = []
        for dialogue, (start, seconds) in zip(self.dialogues, self.windows, strict=True):
            rate = dialogue.frame_rate
            first, last = round(start * rate), round((start + seconds) * rate)
            found.append([np.asarray(channel[first:last], np.int64) for channel in dialogue.units])
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


def channel_name(number: int) -> str:
    """A, B, …, Z, 27, …"""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def side_figures(side: Side, bootstrap: BootstrapOptions) -> dict[str, Any]:
    """Turn-taking, and what else is known: ``units``, ``sound``, ``words``."""
    figures = summarise(side.events, bootstrap)
    units = side.units()
    if any(units):
        rate = next(dialogue.frame_rate for dialogue in side.dialogues if dialogue.units)
        figures["units"] = _by_channel(unit_figures(units, rate))
    sound = [m.sound for m in side.measurements]
    if any(sound):
        pooled = pool_sound(sound, [m.duration for m in side.measurements])
        figures["sound"] = {channel_name(number): row for number, row in enumerate(pooled)}
    if any(m.words for m in side.measurements):
        figures["words"] = _words(side)
    return figures


def _by_channel(figures: Mapping[str, Any]) -> dict[str, Any]:
    named = {channel_name(number): row for number, row in enumerate(figures["channels"])}
    return {**named, "all": figures["all"]}


def _words(side: Side) -> dict[str, Any]:
    texts, minutes, speech = [], 0.0, 0.0
    references, hypotheses = [], []
    for dialogue, measurement, (start, seconds) in zip(side.dialogues, side.measurements, side.windows, strict=True):
        heard = [
            [part["text"] for part in channel if start <= (part["start"] + part["end"]) / 2 < start + seconds]
            for channel in measurement.words
        ]
        texts += [text for channel in heard for text in channel]
        minutes += seconds * len(measurement.words) / 60
        speech += sum(total_seconds(crop_intervals(c, start, start + seconds)) for c in measurement.activity) / 60
        said = dialogue.row.get("text")
        if isinstance(said, list) and len(said) == len(heard):
            references += [str(text) for text in said]
            hypotheses += [" ".join(channel) for channel in heard]
        elif isinstance(said, str):
            references.append(said)
            hypotheses.append(" ".join(text for channel in heard for text in channel))
    figures = talk_figures(texts, minutes, speech)
    if references:
        figures["error_rates"] = error_rates(references, hypotheses)
    return figures


def difference(mine: Any, theirs: Any) -> Any:
    """Numbers of one nested value less those of another, where both have them; None where one has none."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        both = {key: difference(mine[key], theirs[key]) for key in mine if key in theirs and key != "reason"}
        return {key: value for key, value in both.items() if value is not _NOTHING}
    numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (mine, theirs)]
    if all(numbers):
        return mine - theirs
    return None if mine is None or theirs is None else _NOTHING


_NOTHING = object()


def distance_figures(generated: Side, reference: Side, mine: Mapping[str, Any], theirs: Mapping[str, Any],
                     bootstrap: BootstrapOptions) -> dict[str, Any]:  # fmt: skip
    """Generated less reference, and the distances of distributions."""
    distance = compare(generated.events, reference.events, bootstrap)
    for name in ("sound", "words", "likelihood"):
        if name in mine and name in theirs:
            distance[name] = difference(mine[name], theirs[name])
    if "units" in mine and "units" in theirs:
        apart = _by_channel(compare_units(generated.units(), reference.units()))
        differences = difference(mine["units"], theirs["units"])
        distance["units"] = {name: {**differences.get(name, {}), **apart[name]} for name in apart}
    return distance


def correlation_figures(
    pairs: Sequence[Pair],
    generated: Side,
    reference: Mapping[str, Measurement],
    options: TurnTakingOptions,
    bootstrap: BootstrapOptions,
) -> dict[str, Any]:
    """Correlation over prompts; several continuations of a prompt count together."""
    longest: dict[tuple[str, float], float] = {}
    for pair in pairs:
        key = pair.reference, pair.reference_start
        longest[key] = max(longest.get(key, 0.0), pair.seconds)
    places = {key: place for place, key in enumerate(longest)}
    talks = []
    for (name, start), seconds in longest.items():
        end = start + seconds
        activity = [shift_intervals(crop_intervals(c, start, end), -start) for c in reference[name].activity]
        talks.append((activity, end - start))
    numbers = np.array([places[pair.reference, pair.reference_start] for pair in pairs], np.int64)
    return correlate(generated.events, numbers, find_events_of_many(talks, options), bootstrap)


def yardstick_figures(reference: Side, bootstrap: BootstrapOptions) -> dict[str, Any]:
    """Halves of the reference against each other; ``reason`` where there are none."""
    halves = compare_halves(reference.events, seed=bootstrap.seed)
    if halves is None:
        return {"reason": "one conversation cannot be halved" if reference.events.conversations else "no conversation"}
    return halves
