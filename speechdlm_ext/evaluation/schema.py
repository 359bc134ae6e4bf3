"""Every figure of an evaluation, once: its key, name, unit, meaning, and whether higher or lower is better.

metrics.json, metrics.csv, the page and docs/metrics.md are written from this list. To add a figure, return it from the
function of its group (``GROUPS`` in figures.py) and add a line here. ``python -m speechdlm_ext.evaluation.schema FILE``
writes docs/metrics.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VERSION = 2  # of metrics.json: increased when a key or a meaning changes


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        label: its name on the page.
        unit: ``s``, ``dB``, ``per minute`` …; empty for counts; ``%`` for fractions, which the page shows in per cent.
        meaning: one line.
        better: ``higher``, ``lower``, or empty where neither is: then near the reference is better.
        count: it says how much was measured, so that no difference of two corpora is computed.
        distance: it is of two corpora, under ``distance`` alone.
    """

    label: str
    unit: str
    meaning: str
    better: str = ""
    count: bool = False
    distance: bool = False


@dataclass(frozen=True)
class Group:
    """Figures that are computed together, under one key of a corpus in metrics.json."""

    title: str
    meaning: str
    figures: Mapping[str, Figure]


# Kinds of turn-taking events, in the order of metrics.events.KINDS.
EVENTS = {
    "ipu": ("IPU", "Inter-pausal unit: speech of one channel, bounded by 200 ms of silence or more"),
    "pause": ("Pause", "Silence of all channels between two IPUs of the same speaker"),
    "gap": ("Gap", "Silence of all channels at a change of speaker"),
    "overlap": ("Overlap", "Two or more channels speak at once"),
    "overlap_within": ("Overlap, within turn", "Overlap after which the previous speaker continues"),
    "overlap_between": ("Overlap, between turns", "Overlap at a change of speaker"),
    "turn": ("Turn", "Speech of one channel with its pauses, until the other takes the floor; without backchannels"),
    "backchannel": ("Backchannel", "A short IPU within the other channel's turn, such as mm-hm"),
    "interruption": ("Interruption", "A change of speaker with 200 ms of overlap or more"),
    "floor_transfer_offset": (
        "Floor transfer offset",
        "From the end of a turn to the start of the next; overlaps are negative",
    ),
}

GROUPS = {
    "turn_taking": Group(
        "Turn-taking",
        "Of a corpus as a whole, and under the key of each kind of event; where `floor_transfer_offset` has seconds, "
        "they are signed.",
        {
            "conversations": Figure("Dialogues", "", "Dialogues measured", count=True),
            "minutes": Figure("Minutes", "min", "Time measured", count=True),
            "speech_share": Figure("Speech", "%", "Time with speech, for each channel"),
            "n": Figure("Events", "", "Number of events; of a correlation, of prompts", count=True),
            "per_minute": Figure("Rate", "per minute", "Events per minute of dialogue"),
            "seconds_per_minute": Figure("Duration", "s per minute", "Seconds of such events per minute of dialogue"),
            "mean": Figure("Mean", "s", "Mean duration"),
            "median": Figure("Median", "s", "Median duration"),
            "quantiles": Figure("Quantiles", "s", "Quantiles of the durations, by fraction of the events"),
            "interval": Figure("Interval", "", "Bootstrap confidence interval [low, high] of each figure named"),
            "wasserstein": Figure(
                "Distance", "s", "Wasserstein-1 distance of the two corpora's durations", "lower", distance=True
            ),
            "splits": Figure("Splits", "", "Times that the reference is split into halves", count=True),
            "r": Figure(
                "Correlation",
                "",
                "Pearson correlation over prompts of the mean duration in the generated and the real continuation",
                better="higher",
            ),
        },
    ),
    "units": Group(
        "Units",
        "Of each channel and of all together. A run is a maximal sequence of equal units.",
        {
            "frames": Figure("Frames", "", "Frames measured, all channels together", count=True),
            "seconds": Figure("Seconds", "s", "Time measured, all channels together", count=True),
            "unit_rate": Figure("Unit rate", "Hz", "Runs per second"),
            "mean_run": Figure("Run length", "s", "Mean duration of a run"),
            "entropy": Figure("Entropy", "bits", "Entropy of the units of runs"),
            "frame_entropy": Figure("Frame entropy", "bits", "Entropy of the units of frames"),
            "bitrate": Figure("Bitrate", "bits per second", "Unit rate times entropy"),
            "bitrate_with_durations": Figure(
                "Bitrate with durations", "bits per second", "Unit rate times the entropy of units and run lengths"
            ),
            "repetition": Figure("Repetition", "%", "4-grams of runs that occurred before on the same channel"),
            "different": Figure("Different units", "", "Units that occur"),
            "jensen_shannon": Figure(
                "Jensen–Shannon divergence",
                "bits",
                "Of the unit distributions of both corpora: 0 the same, 1 none in common",
                "lower",
                distance=True,
            ),
            "novelty": Figure(
                "Novelty", "%", "Generated 4-grams of runs that the reference does not have", distance=True
            ),
        },
    ),
    "likelihood": Group(
        "Likelihood",
        "By the model of `--checkpoint`, of each channel and of all together.",
        {
            "edges": Figure("Edge units", "", "Units that differ from the one before", count=True),
            "edge_bits": Figure("Bits per edge unit", "bits", "Negative log-likelihood of edge units", better="lower"),
            "unit_bits": Figure("Bits per frame", "bits", "Negative log-likelihood of frames", better="lower"),
            "duration_error": Figure(
                "Duration error", "frames", "Mean absolute error of predicted run lengths", better="lower"
            ),
        },
    ),
    "sound": Group(
        "Audio signal",
        "Of each channel.",
        {
            "level": Figure("Level", "dB", "Mean level re full scale"),
            "peak": Figure("Peak", "dB", "Highest level re full scale"),
            "clipped": Figure("Clipped", "%", "Samples at full scale", better="lower"),
            "silent": Figure("Digital silence", "%", "Samples that are zero"),
            "bandwidth": Figure("Bandwidth", "Hz", "Frequency above which the spectrum is 60 dB below its peak"),
            "dc": Figure("DC offset", "%", "Mean of the samples, of full scale", better="lower"),
            "snr": Figure("SNR", "dB", "Level of speech over the level outside of speech", better="higher"),
        },
    ),
    "words": Group(
        "Words",
        "By the recogniser of `--asr`; `error_rates` for words and characters, where the manifest has `text`.",
        {
            "words": Figure("Words", "", "Words recognised"),
            "words_per_minute": Figure("Speaking rate", "per minute", "Words per minute of one channel"),
            "words_per_minute_of_speech": Figure(
                "Speaking rate in speech", "per minute", "Words per minute of detected speech"
            ),
            "filler_share": Figure("Fillers", "%", "Words that are uh, um and the like"),
            "laughter_per_minute": Figure(
                "Laughter", "per minute", "Laughter per minute of one channel, where the recogniser supports it"
            ),
            "corpus": Figure("Error rate", "%", "Errors per reference length, all utterances together", "lower"),
            "median": Figure("Median error rate", "%", "Median over utterances that have a reference", "lower"),
            "insertions": Figure("Insertions", "", "Recognised, not in the reference", better="lower"),
            "deletions": Figure("Deletions", "", "In the reference, not recognised", better="lower"),
            "substitutions": Figure("Substitutions", "", "Recognised as something else", better="lower"),
            "hits": Figure("Hits", "", "Recognised correctly", count=True),
            "reference": Figure("Reference length", "", "Words, or characters, of the references", count=True),
            "utterances": Figure("Utterances", "", "Texts compared", count=True),
        },
    ),
    "full_duplex_bench": Group(
        "Full-Duplex-Bench",
        "Timing, of all samples and of each task.",
        {
            "samples": Figure("Samples", "", "Dialogues in which the user speaks", count=True),
            "take_over_rate": Figure(
                "Take-over rate", "%", "Samples in which the model speaks after the end of the user's turn"
            ),
            "early_take_over_rate": Figure(
                "Early take-over rate", "%", "Samples in which it takes the turn before the user's end", "lower"
            ),
            "latency": Figure("Latency", "s", "Mean time from the user's end to the model's start", "lower"),
            "median_latency": Figure("Median latency", "s", "Median of the same", "lower"),
            "backchannel_frequency": Figure(
                "Backchannel frequency", "per second", "Backchannels per second of the user's turn"
            ),
        },
    ),
}


def find_figure(group: str, key: str) -> Figure | None:
    """The figure of a key in a group, if there is one."""
    return GROUPS[group].figures.get(key) if group in GROUPS else None


def spell(key: str) -> str:
    """A key that is no figure's as words: ``error_rates`` is *error rates*."""
    return key.replace("_", " ").strip()


def channel_name(number: int, names: Sequence[str] = ()) -> str:
    """The name of a channel, or a letter where it has none: A, B, …, Z, 27, …"""
    if number < len(names) and names[number]:
        return names[number]
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def format_value(value: Any, unit: str = "", signed: bool = False) -> str:
    """A figure with about three significant digits, never an exponent; a dash where it is None or not finite."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int) and unit != "%":
        return f"{value:{'+' if signed else ''},}".replace("-", "−")
    value = 100 * value if unit == "%" else float(value)
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else 5
    digits = min(digits, 2) if unit in ("%", "dB") and size >= 0.005 else digits
    text = f"{value:{'+' if signed else ''},.{digits}f}" if round(size, digits) else "0"
    return text.replace("-", "−") + ("\N{NO-BREAK SPACE}%" if unit == "%" else "")


def schema_json() -> dict[str, Any]:
    """The schema as part of metrics.json: events, and the figures of each group."""
    groups = {
        name: {
            key: {k: v for k, v in asdict(figure).items() if v not in ("", False)}
            for key, figure in group.figures.items()
        }
        for name, group in GROUPS.items()
    }
    return {"events": {key: {"label": label, "meaning": text} for key, (label, text) in EVENTS.items()}, **groups}


_INTRODUCTION = f"""# Metrics

Generated from `speechdlm_ext/evaluation/schema.py` by `python -m speechdlm_ext.evaluation.schema docs/metrics.md`.

## metrics.json, version {VERSION}

| Key | Content |
|---|---|
| `version` | {VERSION} |
| `generated`, `reference` | the figures of a corpus: turn-taking, then a key for each group below that applies |
| `distance` | generated less reference, with confidence intervals, and the distances of distributions |
| `split_half` | the same figures between random halves of the reference: the level that sampling alone gives |
| `correlation` | over prompts, where generated dialogues continue real ones |
| `full_duplex_bench` | with `--full-duplex-bench` |
| `activity` | how speech was detected: method, frame shift, options |
| `settings` | what was evaluated, and the thresholds |
| `schema` | label, unit and meaning of each figure, as below |
| `skipped` | dialogues that could not be measured, with the reason |
| `unmatched` | names that only one of the corpora has |

A figure that is not known is `null`, and `reason` beside it says why. metrics.csv has a row for each corpus and then
one for each dialogue; its columns are the same keys joined by dots (`gap.per_minute`, `sound.A.snr`).

Version 1 had `yardstick` for `split_half`, `left_out` for `skipped`, `measures` (units alone) for `schema`, and in
metrics.csv `words` for `words.words`; its figures were of a refined silero, where version 2 has silero as published."""


def markdown() -> str:
    """The content of docs/metrics.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from (_INTRODUCTION, "", "## Turn-taking events", "", "| Key | Name | Meaning |", "|---|---|---|")
    yield from (f"| `{key}` | {label} | {meaning} |" for key, (label, meaning) in EVENTS.items())
    for key, group in GROUPS.items():
        where = "Under a corpus and under each of its events" if key == "turn_taking" else f"Under `{key}`"
        yield from ("", f"## {group.title}", "", f"{where}. {group.meaning}", "")
        yield from ("| Key | Name | Unit | Better | Meaning |", "|---|---|---|---|---|")
        for name, figure in group.figures.items():
            unit = {"%": "fraction", "": "–"}.get(figure.unit, figure.unit)
            better = "–" if figure.count else figure.better or "near the reference"
            yield f"| `{name}` | {figure.label} | {unit} | {better} | {figure.meaning} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
