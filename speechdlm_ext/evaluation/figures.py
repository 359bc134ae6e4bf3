"""The figures of an evaluation, computed from what was measured; schema.py says what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechdlm_ext.evaluation.eval_set import EvalSet, Pair, crop_activity
from speechdlm_ext.evaluation.likelihood import likelihood_figures
from speechdlm_ext.evaluation.measure import Measurement
from speechdlm_ext.evaluation.schema import GROUPS, channel_name, find_figure
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.comparison import compare, compare_halves
from speechdlm_ext.metrics.correlation import correlate
from speechdlm_ext.metrics.intervals import crop_intervals, total_seconds
from speechdlm_ext.metrics.signal import pool_sound
from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions, find_events_of_many
from speechdlm_ext.metrics.units import compare_units, unit_figures
from speechdlm_ext.metrics.words import error_rates, talk_figures

Figures = dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What some figures need: ``model``, of which likelihoods are computed, and what the recogniser can do."""

    model: Any = None
    supports_laughter: bool = False


def corpus_figures(own: EvalSet, bootstrap: BootstrapOptions, resources: Resources) -> Figures:
    """Turn-taking, and each group of figures that applies to the corpus."""
    figures = summarize(own.events, bootstrap)
    for name, compute in MEASURES.items():
        found = compute(own, resources)
        if found is not None:
            figures[name] = found
    return figures


def _units(own: EvalSet, _: Resources) -> Figures | None:
    units = own.units()
    if not any(units):
        return None
    rate = next(dialogue.frame_rate for dialogue in own.dialogues if dialogue.units)
    return _by_channel(unit_figures(units, rate))


def _by_channel(figures: Mapping[str, Any]) -> Figures:
    named = {channel_name(number): row for number, row in enumerate(figures["channels"])}
    return {**named, "all": figures["all"]}


def _likelihood(own: EvalSet, resources: Resources) -> Figures | None:
    return None if resources.model is None else likelihood_figures(resources.model, own)


def _sound(own: EvalSet, _: Resources) -> Figures | None:
    sound = [m.sound for m in own.measurements]
    if not any(sound):
        return None
    pooled = pool_sound(sound, [m.duration for m in own.measurements])
    return {channel_name(number): row for number, row in enumerate(pooled)}


def _words(own: EvalSet, resources: Resources) -> Figures | None:
    """How much is said, and ``error_rates`` where manifest rows have ``text``; dialogues without words are skipped."""
    if not any(m.words for m in own.measurements):
        return None
    texts, minutes, speech = [], 0.0, 0.0
    references: list[str] = []
    hypotheses: list[str] = []
    skipped: dict[str, int] = {}
    for dialogue, measurement, (start, seconds) in zip(own.dialogues, own.measurements, own.windows, strict=True):
        if not measurement.words:
            continue
        end = start + seconds
        recognised = [
            [part["text"] for part in channel if start <= (part["start"] + part["end"]) / 2 < end]
            for channel in measurement.words
        ]
        texts += [text for channel in recognised for text in channel]
        minutes += seconds * len(measurement.words) / 60
        speech += sum(total_seconds(crop_intervals(channel, start, end)) for channel in measurement.activity) / 60
        whole = start == 0 and seconds >= measurement.duration
        own_references, why = _reference_texts(dialogue.row.get("text"), len(recognised), whole)
        if why:
            skipped[why] = skipped.get(why, 0) + 1
        references += own_references
        by_channel = [" ".join(channel) for channel in recognised]
        hypotheses += by_channel if len(own_references) > 1 else [" ".join(by_channel)] * len(own_references)
    figures = talk_figures(texts, minutes, speech, resources.supports_laughter)
    if references or skipped:
        rates = error_rates(references, hypotheses)
        reasons = [f"{count} skipped: {why}" for why, count in skipped.items()]
        figures["error_rates"] = {**rates, "reason": "; ".join(filter(None, [rates["reason"], *reasons])) or None}
    return figures


def _reference_texts(text: Any, channels: int, whole: bool) -> tuple[list[str], str]:
    """The reference texts, one of all channels or one for each; and why there are none, where there should be."""
    if text is None:
        return [], ""
    if not whole:
        return [], "the text is of the whole dialogue, of which a part is evaluated"
    if isinstance(text, str):
        return [text], ""
    if isinstance(text, list) and len(text) == channels and all(isinstance(part, str) for part in text):
        return text, ""
    return [], f"text is neither a string nor a list of {channels}, one for each channel"


# A function for each group of schema.GROUPS that is computed of one corpus; None where it does not apply.
MEASURES: dict[str, Callable[[EvalSet, Resources], Figures | None]] = {
    "units": _units,
    "likelihood": _likelihood,
    "sound": _sound,
    "words": _words,
}


def distance_figures(
    generated: tuple[EvalSet, Figures], reference: tuple[EvalSet, Figures], bootstrap: BootstrapOptions
) -> Figures:
    """Generated less reference, and the distances of distributions; of each corpus its dialogues and its figures."""
    (mine, my_figures), (theirs, their_figures) = generated, reference
    distance = compare(mine.events, theirs.events, bootstrap)
    for name in MEASURES:
        if name in my_figures and name in their_figures:
            distance[name] = difference(my_figures[name], their_figures[name], name)
    if "units" in distance:
        for name, apart in _by_channel(compare_units(mine.units(), theirs.units())).items():
            distance["units"][name] = {**distance["units"].get(name, {}), **apart}
    return distance


def difference(mine: Figures, theirs: Figures, group: str) -> Figures:
    """The figures of a group less those of another corpus; None where one has none, and nothing of counts and text."""
    found: Figures = {}
    for key in mine:
        one, other, figure = mine[key], theirs.get(key), find_figure(group, key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found[key] = difference(dict(one), dict(other), group)
        elif key in theirs and figure is not None and not figure.count:
            found[key] = None if one is None or other is None else one - other
    return found


def correlation_figures(
    pairs: Sequence[Pair],
    generated: EvalSet,
    reference: Mapping[str, Measurement],
    options: TurnTakingOptions,
    bootstrap: BootstrapOptions,
) -> Figures:
    """Correlation over prompts; several continuations of a prompt are pooled."""
    longest: dict[tuple[str, float], float] = {}
    for pair in pairs:
        key = pair.reference, pair.reference_start
        longest[key] = max(longest.get(key, 0.0), pair.seconds)
    places = {key: place for place, key in enumerate(longest)}
    talks = [
        (crop_activity(reference[name], start, start + seconds), seconds) for (name, start), seconds in longest.items()
    ]
    numbers = np.array([places[pair.reference, pair.reference_start] for pair in pairs], np.int64)
    return correlate(generated.events, numbers, find_events_of_many(talks, options), bootstrap)


def split_half_figures(reference: EvalSet, bootstrap: BootstrapOptions) -> Figures:
    """The distance of random halves of the reference from each other; ``reason`` where there are none."""
    halves = compare_halves(reference.events, seed=bootstrap.seed)
    if halves is None:
        return {"reason": "one dialogue cannot be split" if reference.events.conversations else "no dialogue"}
    return halves


def dialogue_figures(own: EvalSet) -> list[Figures]:
    """Figures of each dialogue that are not events, by keys joined with dots: audio of each channel, and words."""
    rows = []
    for measurement in own.measurements:
        row: Figures = {}
        for number, channel in enumerate(measurement.sound):
            row |= {f"sound.{channel_name(number)}.{key}": channel[key] for key in GROUPS["sound"].figures}
        if measurement.words:
            row["words.words"] = sum(len(part["text"].split()) for channel in measurement.words for part in channel)
        rows.append(row)
    return rows
