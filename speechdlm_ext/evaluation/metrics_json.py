"""All figures of an evaluation as one JSON value, the content of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speechdlm_ext.evaluation.asr_metrics import word_figures
from speechdlm_ext.evaluation.eval_set import Side
from speechdlm_ext.evaluation.measure_dialogue import Measurement
from speechdlm_ext.evaluation.prompts import Pair
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.comparison import compare, compare_halves
from speechdlm_ext.metrics.correlation import correlate
from speechdlm_ext.metrics.intervals import crop_intervals, shift_intervals
from speechdlm_ext.metrics.signal import pool_sound
from speechdlm_ext.metrics.summary import summarise
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions, find_events_of_many
from speechdlm_ext.metrics.unit_figures import compare_units, unit_figures

VERSION = 2  # of the schema: counted up when a name or a meaning changes
MEASURES = {
    "conversations": "conversations",
    "n": "events; of correlations, prompts",
    "splits": "times that the reference is halved",
    "per_minute": "events a minute of conversation",
    "seconds_per_minute": "seconds a minute of conversation",
    "mean": "seconds",
    "median": "seconds; of error rates, errors over reference length",
    "quantiles": "seconds, by share of the events",
    "interval": "of the measure named, [low, high]",
    "wasserstein": "seconds",
    "r": "Pearson correlation over prompts",
    "speech_share": "share of the time, for each channel",
    "floor_transfer_offset": "signed seconds, negative for overlaps",
    "minutes": "minutes",
    "frames": "frames, all channels together",
    "seconds": "seconds, all channels together",
    "different": "units that occur",
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
    "edges": "units that differ from the one before them",
    "edge_bits": "bits a unit that differs from the one before it",
    "unit_bits": "bits a frame",
    "duration_error": "frames",
    "samples": "dialogues in which the user speaks",
    "take_over_rate": "share of the samples",
    "early_take_over_rate": "share of the samples",
    "latency": "seconds",
    "median_latency": "seconds",
    "backchannel_frequency": "backchannels a second of the user's turn",
    "words": "words",
    "words_per_minute": "words a minute of one channel",
    "words_per_minute_of_speech": "words a minute of speech",
    "filler_share": "share of the words",
    "laughter_per_minute": "laughs a minute of one channel",
    "utterances": "texts that were compared",
    "reference": "words, or characters",
    "hits": "words, or characters",
    "insertions": "words, or characters",
    "deletions": "words, or characters",
    "substitutions": "words, or characters",
    "corpus": "errors over reference length",
}


def channel_name(number: int) -> str:
    """A, B, …, Z, 27, …"""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def side_figures(side: Side, bootstrap: BootstrapOptions, hears_laughter: bool = False) -> dict[str, Any]:
    """Turn-taking, and what else is known: ``units``, ``sound``, ``words`` (by a recogniser that hears laughter)."""
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
        figures["words"] = word_figures(side, hears_laughter)
    return figures


def _by_channel(figures: Mapping[str, Any]) -> dict[str, Any]:
    named = {channel_name(number): row for number, row in enumerate(figures["channels"])}
    return {**named, "all": figures["all"]}


def difference(mine: Any, theirs: Any) -> Any:
    """Numbers of one nested value less those of another, where both have them; None where one has none."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        both = {key: difference(mine[key], theirs[key]) for key in mine if key in theirs and key not in _NO_FIGURES}
        return {key: value for key, value in both.items() if value is not _NOTHING}
    numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (mine, theirs)]
    if all(numbers):
        return mine - theirs
    return None if mine is None or theirs is None else _NOTHING


_NOTHING = object()
# How much was measured, and words about it: their difference says nothing.
_NO_FIGURES = ("reason", "normalisation", "frames", "seconds", "edges", "utterances", "reference", "hits")


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
