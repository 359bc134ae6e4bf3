"""Figures of generated conversations beside those of a reference: tables, ranges and distributions for a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from speechdlm_ext.metrics.events import KINDS, Events
from speechdlm_ext.report.charts import Estimate, range_chart
from speechdlm_ext.report.distributions import histogram_chart
from speechdlm_ext.report.glossary import EVENTS, spell
from speechdlm_ext.report.page import table

Figures = Mapping[str, Any]


def summary_table(result: Figures, names: Sequence[str]) -> str:
    """A row for each kind of event: rate and median of each corpus, and how far apart they are.

    Args:
        result: what ``metrics.json`` holds.
        names: the corpora's keys in it, the generated one first, at most two.
    """
    both, halves = len(names) > 1, result.get("yardstick") or {}
    head = ["", *(f"{name}\na minute" for name in names), *(["difference\na minute"] if both else [])]
    head += [f"{name}\nmedian" for name in names] + (["distance\nof lengths"] if both else [])
    head += ["correlation\nover prompts"] if result.get("correlation") else []
    rows = [["Speech\nShare of the time in which each channel speaks", *(_shares(result, name) for name in names)]]
    rows[0] += [""] * (len(head) - len(rows[0]))
    for kind, term in EVENTS.items():
        figures = [_of(result, name, kind) for name in names]
        if not any(figures):
            continue
        row = [f"{term.label}\n{term.meaning}", *(_with_interval(f, "per_minute", 1) for f in figures)]
        distance, yardstick = _of(result, "distance", kind), _of({"halves": halves}, "halves", kind)
        if both:
            row.append(_with_interval(distance, "per_minute", 1, "", yardstick, signed=True))
        row += [_number(f.get("median"), 2, " s") for f in figures]
        if both:
            row.append(_with_interval(distance, "wasserstein", 2, " s", yardstick))
        if result.get("correlation"):
            row.append(_with_interval(_of(result, "correlation", kind), "r", 2))
        rows.append(row)
    return table(head, rows, stacked=True)


def plain_differences(result: Figures) -> str:
    """In a sentence, the kinds of events whose rates differ clearly: the interval of the difference leaves out 0."""
    found, known = [], False
    for kind, term in EVENTS.items():
        distance = _of(result, "distance", kind)
        low, high = _interval(distance, "per_minute")
        if low is None or high is None:
            continue
        known = True
        if low > 0 or high < 0:
            found.append(f"{term.label.lower()} ({_number(distance.get('per_minute'), 1, '', True)} a minute)")
    if not known:
        return ""
    if not found:
        return "No rate of events differs clearly: the interval of each difference holds 0."
    return f"Rates that differ clearly (the interval of the difference leaves out 0): {', '.join(found)}."


def rate_chart(result: Figures, names: Sequence[str]) -> str:
    """Events a minute of each kind, the corpora's beside each other, with their confidence intervals."""
    rows = []
    for kind, term in EVENTS.items():
        figures = [_of(result, name, kind) for name in names]
        if any(figures):
            rows.append((term.label, [_estimate(f, "per_minute") for f in figures]))
    return range_chart(rows, [spell(name) for name in names], "a minute", "Events")


def reasons(result: Figures, names: Sequence[str]) -> list[list[str]]:
    """Corpus (or ``correlation``), kinds of events and reason of what could not be said."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        for kind, term in EVENTS.items():
            figures = _of(result, name, kind)
            if figures.get("reason") and figures.get("per_minute") is None:
                found.setdefault((spell(name), str(figures["reason"])), []).append(term.label)
    for kind, term in EVENTS.items():
        figures = _of(result, "correlation", kind)
        if figures.get("reason") and figures.get("r") is None:
            found.setdefault(("correlation", str(figures["reason"])), []).append(term.label)
    return [[corpus, "; ".join(labels), reason] for (corpus, reason), labels in found.items()]


def distribution_charts(corpora: Sequence[tuple[str, Events]], kinds: Iterable[str] = tuple(KINDS)) -> str:
    """A chart of the lengths of each kind of event, the corpora over each other; ``kinds`` as attributes of Events."""
    charts = [
        histogram_chart(
            EVENTS[KINDS[kind]].label,
            [(name, getattr(events, kind).durations) for name, events in corpora],
            note=EVENTS[KINDS[kind]].meaning,
        )
        for kind in kinds
    ]
    return f'<div class="grid">{"".join(charts)}</div>'


def _of(result: Figures, corpus: str, kind: str) -> Figures:
    found = (result.get(corpus) or {}).get(kind)
    return found if isinstance(found, Mapping) else {}


def _interval(figures: Figures, measure: str) -> tuple[float | None, float | None]:
    found = figures.get("interval")
    found = found.get(measure) if isinstance(found, Mapping) else found if measure in ("per_minute", "r") else None
    if isinstance(found, Sequence) and len(found) == 2:
        return found[0], found[1]
    return None, None


def _estimate(figures: Figures, measure: str) -> Estimate:
    return Estimate(figures.get(measure), *_interval(figures, measure))


def _number(value: Any, digits: int, unit: str = "", signed: bool = False) -> str:
    if not isinstance(value, (int, float)):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}{unit}".replace("-", "−")


def _with_interval(
    figures: Figures, measure: str, digits: int, unit: str = "", halves: Figures | None = None, signed: bool = False
) -> str:
    """The figure, below it its interval, and below that what two halves of the reference have."""
    text = _number(figures.get(measure), digits, unit, signed)
    low, high = _interval(figures, measure)
    if text != "–" and low is not None and high is not None:
        text += f"\n{_number(low, digits)} to {_number(high, digits)}"
    if halves and halves.get(measure) is not None:
        text += f"\nhalves {_number(halves[measure], digits, unit)}"
    return text


def _shares(result: Figures, name: str) -> str:
    shares = (result.get(name) or {}).get("speech_share")
    if not shares:
        return "–"
    return " · ".join("–" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%" for share in shares)
