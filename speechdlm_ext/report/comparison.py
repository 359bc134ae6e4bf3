"""Figures of generated conversations beside those of a reference: tables, ranges and distributions for a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from speechdlm_ext.metrics.events import KINDS, Events
from speechdlm_ext.report.charts import Estimate, range_chart
from speechdlm_ext.report.distributions import histogram_chart
from speechdlm_ext.report.glossary import EVENTS, FURTHER, spell
from speechdlm_ext.report.page import table
from speechdlm_ext.report.timeline import channel_name

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
    """Corpus, kinds of events and reason of what could not be said."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        for kind, term in EVENTS.items():
            figures = _of(result, name, kind)
            if figures.get("reason") and figures.get("per_minute") is None:
                found.setdefault((spell(name), str(figures["reason"])), []).append(term.label)
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


def further_tables(result: Figures, names: Sequence[str]) -> str:
    """Figures of both corpora that are not events: units, likelihood, words, sound, each group a table."""
    groups: dict[str, dict[str, list[str]]] = {}
    columns = [*names, *(["distance"] if "distance" in result else [])]
    for number, name in enumerate(columns):
        for group, label, text in _flatten(result.get(name) or {}):
            groups.setdefault(group, {}).setdefault(label, [""] * len(columns))[number] = text
    parts = []
    for group, found in groups.items():
        head = ["", *(spell(name) for name in columns)]
        rows = [[label, *texts] for label, texts in found.items()]
        title = f"<h3>{_title(group)}</h3>" if group else ""
        parts.append(title + table(head, rows, stacked=True))
    return "".join(parts) + _benchmark(result.get("full_duplex_bench") or {})


def _benchmark(found: Figures) -> str:
    """Full-Duplex-Bench: a column for each of its tasks."""
    tasks = {name: figures for name, figures in found.items() if isinstance(figures, Mapping)}
    keys = dict.fromkeys(key for figures in tasks.values() for key in figures)
    rows = [[_label(key), *(plain_value(figures.get(key)) or "" for figures in tasks.values())] for key in keys]
    left_out = plain_value(found.get("not_computed") or ())
    note = f'<p class="note">Not computed: {escape(left_out)}.</p>' if left_out else ""
    return "<h3>Full-Duplex-Bench</h3>" + table(["", *map(spell, tasks)], rows, stacked=True) + note if rows else ""


_SHOWN_ELSEWHERE = {*EVENTS, "conversations", "minutes", "speech_share"}


def _flatten(figures: Figures) -> Iterator[tuple[str, str, str]]:
    """(group, label, text) of every figure that is not an event's."""
    for key, value in figures.items():
        if key in _SHOWN_ELSEWHERE:
            continue
        if isinstance(value, Mapping):
            yield from ((key, label, text) for label, text in _leaves(value))
        elif (text := plain_value(value)) is not None:
            yield "", _label(key), text


def _leaves(value: Figures, before: str = "") -> Iterator[tuple[str, str]]:
    """(label, text) of each figure of a group; those of channels lie in one text, below that of all of them."""
    if value and all(isinstance(inner, Mapping) for inner in value.values()) and _CHANNELS.issuperset(value):
        yield from _of_channels(value, before)
        return
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{before}, {spell(key)}" if before else spell(key))
        elif (text := plain_value(inner)) is not None and not (key == "reason" and inner is None):
            yield _label(key, before), text


_CHANNELS = {"all", *map(channel_name, range(64))}


def _of_channels(value: Mapping[str, Figures], before: str) -> Iterator[tuple[str, str]]:
    for key in dict.fromkeys(key for figures in value.values() for key in figures):
        known = {name: figures[key] for name, figures in value.items() if key in figures}
        if key == "reason" and not any(known.values()):
            continue
        if any(isinstance(inner, Mapping) for inner in known.values()):
            groups = {name: inner for name, inner in known.items() if isinstance(inner, Mapping)}
            yield from _leaves(groups, f"{before}, {spell(key)}" if before else spell(key))
            continue
        whole = plain_value(known.pop("all")) if "all" in known else None
        each = [
            f"{name}\N{NO-BREAK SPACE}{text}"
            for name, inner in known.items()
            if (text := plain_value(inner)) is not None
        ]
        yield _label(key, before), "\n".join(filter(None, (whole, " · ".join(each))))


def _label(key: str, before: str = "") -> str:
    """The figure's name, and its meaning and unit as a second line where they are known."""
    term = FURTHER.get(key)
    name = term.label if term else spell(key)
    name = f"{before}: {name}" if before else name
    if term is None:
        return name
    return f"{name}\n{term.meaning}" + (f", {term.unit}" if term.unit else "")


def plain_value(value: Any) -> str | None:
    """A figure, a word, or a short list of them as text; None for what a table cannot hold."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _rounded(value).replace("-", "\N{MINUS SIGN}")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and len(value) <= 8:
        texts = [plain_value(item) for item in value]
        return " / ".join(text for text in texts if text is not None) or None
    return None


def _rounded(value: float) -> str:
    """About three digits, never with an exponent."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else 5
    return f"{value:,.{digits}f}" if round(size, digits) else "0"


def _title(group: str) -> str:
    words = spell(group)
    return words[:1].upper() + words[1:]


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
