"""The figures of metrics.json as tables and charts, named and explained by evaluation/schema.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from speechdlm_ext.evaluation.schema import EVENTS, GROUPS, channel_name, find_figure, format_value, spell
from speechdlm_ext.metrics.events import KINDS, Events
from speechdlm_ext.report.charts import Estimate, histogram_chart, range_chart
from speechdlm_ext.report.page import table

Figures = Mapping[str, Any]
_CHANNELS = {"all", *map(channel_name, range(64))}


def summary_table(result: Figures, names: Sequence[str]) -> str:
    """A row for each kind of event: rate and median of each corpus, and how far apart the corpora are.

    Args:
        result: content of ``metrics.json``.
        names: the corpora's keys in it, the generated one first, at most two.
    """
    both, correlated = len(names) > 1, bool(result.get("correlation"))
    head = ["", *(f"{name}\nper minute" for name in names), *(["difference\nper minute"] if both else [])]
    head += [f"{name}\nmedian" for name in names] + (["distance\nof durations"] if both else [])
    head += ["correlation\nover prompts"] if correlated else []
    speech = GROUPS["turn_taking"].figures["speech_share"]
    rows = [[f"{speech.label}\n{speech.meaning}", *(_shares(result, name) for name in names)]]
    rows[0] += [""] * (len(head) - len(rows[0]))
    for kind, (label, meaning) in EVENTS.items():
        figures = [_of(result, name, kind) for name in names]
        if not any(figures):
            continue
        distance, halves = _of(result, "distance", kind), _of(result, "split_half", kind)
        row = [f"{label}\n{meaning}", *(_with_interval(f, "per_minute", 1) for f in figures)]
        row += [_with_interval(distance, "per_minute", 1, "", halves, signed=True)] if both else []
        row += [_number(f.get("median"), 2, " s") for f in figures]
        row += [_with_interval(distance, "wasserstein", 2, " s", halves)] if both else []
        row += [_with_interval(_of(result, "correlation", kind), "r", 2)] if correlated else []
        rows.append(row)
    return table(head, rows, stacked=True)


def clear_differences(result: Figures) -> str:
    """A sentence with the events whose rates differ clearly: the interval of the difference excludes 0."""
    intervals = {kind: _interval(_of(result, "distance", kind), "per_minute") for kind in EVENTS}
    known = {kind: ends for kind, ends in intervals.items() if None not in ends}
    if not known:
        return ""
    found = [
        f"{EVENTS[kind][0]} ({_number(_of(result, 'distance', kind).get('per_minute'), 1, '', True)} per minute)"
        for kind, (low, high) in known.items()
        if low > 0 or high < 0
    ]
    if not found:
        return "No rate of events differs clearly: the confidence interval of each difference includes 0."
    return f"Rates that differ clearly (the confidence interval of the difference excludes 0): {', '.join(found)}."


def rate_chart(result: Figures, names: Sequence[str]) -> str:
    """Events per minute of each kind with their confidence intervals, one corpus beside the other."""
    rows = []
    for kind, (label, _) in EVENTS.items():
        figures = [_of(result, name, kind) for name in names]
        if any(figures):
            rows.append((label, [Estimate(f.get("per_minute"), *_interval(f, "per_minute")) for f in figures]))
    return range_chart(rows, [spell(name) for name in names], "per minute", "Events")


def duration_charts(corpora: Sequence[tuple[str, Events]]) -> str:
    """A histogram of the durations of each kind of event, one corpus over the other."""
    charts = [
        histogram_chart(
            EVENTS[kind][0],
            [(name, getattr(events, attribute).durations) for name, events in corpora],
            note=EVENTS[kind][1],
        )
        for attribute, kind in KINDS.items()
    ]
    return f'<div class="grid">{"".join(charts)}</div>'


def unknown_table(result: Figures, names: Sequence[str]) -> str:
    """What is not known: the corpus (or ``correlation``), the events and the reason; empty if all is known."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, measure in [*((name, "per_minute") for name in names), ("correlation", "r")]:
        for kind, (label, _) in EVENTS.items():
            figures = _of(result, name, kind)
            if figures.get("reason") and figures.get(measure) is None:
                found.setdefault((spell(name), str(figures["reason"])), []).append(label)
    rows = [[corpus, "; ".join(labels), reason] for (corpus, reason), labels in found.items()]
    return f"<h3>Not known</h3>{table(['Corpus', 'Figures', 'Reason'], rows, stacked=True)}" if rows else ""


def group_tables(result: Figures, names: Sequence[str]) -> str:
    """A table for each group of figures that are not events: units, likelihood, audio signal, words, benchmark."""
    columns = [*names, *(["distance"] if "distance" in result else [])]
    parts = []
    for name, group in GROUPS.items():
        cells: dict[str, list[str]] = {}
        for number, column in enumerate(columns):
            for label, text in _rows(name, (result.get(column) or {}).get(name) or {}, column == "distance"):
                cells.setdefault(label, [""] * len(columns))[number] = text
        if cells:
            rows = [[label, *texts] for label, texts in cells.items()]
            parts.append(f"<h3>{escape(group.title)}</h3>" + table(["", *map(spell, columns)], rows, stacked=True))
    return "".join(parts) + _benchmark(result.get("full_duplex_bench") or {})


def _benchmark(found: Figures) -> str:
    """Full-Duplex-Bench: a column for each of its tasks."""
    name, tasks = "full_duplex_bench", {task: own for task, own in found.items() if isinstance(own, Mapping)}
    keys = dict.fromkeys(key for own in tasks.values() for key in own)
    rows = [[_label(name, key), *(_text(name, key, own.get(key)) for own in tasks.values())] for key in keys]
    if not rows:
        return ""
    missing = "; ".join(map(str, found.get("not_computed") or ()))
    note = f'<p class="note">Not computed: {escape(missing)}.</p>' if missing else ""
    return f"<h3>{GROUPS[name].title}</h3>" + table(["", *map(spell, tasks)], rows, stacked=True) + note


def _rows(group: str, found: Figures, signed: bool, before: str = "") -> Iterator[tuple[str, str]]:
    """(label, text) of each figure of a group; the channels of a figure are one text, below that of all of them."""
    if found and _CHANNELS.issuperset(found):
        for key in dict.fromkeys(key for own in found.values() for key in own):
            values = {channel: own[key] for channel, own in found.items() if key in own}
            if key == "reason" and not any(values.values()):
                continue
            whole = [_text(group, key, values.pop("all"), signed)] if "all" in values else []
            each = [
                f"{channel}\N{NO-BREAK SPACE}{_text(group, key, value, signed)}" for channel, value in values.items()
            ]
            yield _label(group, key, before), "\n".join([*whole, " · ".join(each)] if each else whole)
        return
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from _rows(group, value, signed, f"{before}, {spell(key)}" if before else spell(key))
        elif key != "reason" or value is not None:
            yield _label(group, key, before), _text(group, key, value, signed)


def _text(group: str, key: str, value: Any, signed: bool = False) -> str:
    figure = find_figure(group, key)
    return format_value(value, figure.unit if figure else "", signed and figure is not None and not figure.distance)


def _label(group: str, key: str, before: str = "") -> str:
    """The name of a figure, and as a second line its meaning, its unit and which direction is better."""
    figure = find_figure(group, key)
    if figure is None:
        return f"{before}: {spell(key)}" if before else spell(key)
    unit = f", {figure.unit}" if figure.unit not in ("", "%") else ""
    better = f"; {figure.better} is better" if figure.better else ""
    return (f"{before}: " if before else "") + f"{figure.label}\n{figure.meaning}{unit}{better}"


def method_tables(result: Figures, names: Sequence[str], audio: str, unreadable: Sequence[tuple[str, str]]) -> str:
    """How the figures were measured: a table for each part of ``metrics.json`` that holds no figures.

    Args:
        result: content of ``metrics.json``.
        names: the corpora's keys in it.
        audio: in words, where the audio of the dialogues is.
        unreadable: name and reason of dialogues whose audio could not be read.
    """
    groups: dict[str, list[list[str]]] = {"": [["Dialogues with audio", audio]]}
    lists = []
    for key, value in result.items():
        if key in (*names, "version", "distance", "split_half", "correlation", "schema", "full_duplex_bench"):
            continue
        title = spell(key).capitalize()
        if isinstance(value, Mapping):
            groups[title] = [[label, text] for label, text in _settings(value)]
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            heads = list(dict.fromkeys(name for item in value for name in item))
            cells = [[_setting(item.get(name)) or "" for name in heads] for item in value]
            lists.append(f"<h3>{escape(title)}</h3>{table([spell(name) for name in heads], cells, stacked=True)}")
        elif text := _setting(value):
            groups[""].append([spell(key), text])
    if unreadable:
        rows = [[name, reason] for name, reason in unreadable]
        lists.append(f"<h3>Audio that cannot be read</h3>{table(['Dialogue', 'Reason'], rows, stacked=True)}")
    settings = "".join(
        (f"<h3>{escape(title)}</h3>" if title else "") + table(["", ""], rows, stacked=True)
        for title, rows in groups.items()
        if rows
    )
    return f'<div class="settings">{settings}{"".join(lists)}</div>'


def _settings(value: Figures, before: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        label = f"{before}, {spell(key)}" if before else spell(key)
        if isinstance(inner, Mapping):
            yield from _settings(inner, "" if key == "options" else label)
        elif text := _setting(inner):
            yield label, text


def _setting(value: Any) -> str | None:
    """As it was given; None for what was not."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(filter(None, map(_setting, value))) or None
    if isinstance(value, Mapping) or value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of(result: Figures, corpus: str, kind: str) -> Figures:
    found = (result.get(corpus) or {}).get(kind)
    return found if isinstance(found, Mapping) else {}


def _interval(figures: Figures, measure: str) -> tuple[Any, Any]:
    found = figures.get("interval")
    found = found.get(measure) if isinstance(found, Mapping) else found if measure in ("per_minute", "r") else None
    return (found[0], found[1]) if isinstance(found, Sequence) and len(found) == 2 else (None, None)


def _number(value: Any, digits: int, unit: str = "", signed: bool = False) -> str:
    if not isinstance(value, (int, float)):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}{unit}".replace("-", "−")


def _with_interval(
    figures: Figures, measure: str, digits: int, unit: str = "", halves: Figures | None = None, signed: bool = False
) -> str:
    """The figure, below it its interval, and below that the split-half baseline."""
    text = _number(figures.get(measure), digits, unit, signed)
    low, high = _interval(figures, measure)
    if text != "–" and low is not None and high is not None:
        text += f"\n{_number(low, digits)} to {_number(high, digits)}"
    if halves and halves.get(measure) is not None:
        text += f"\nsplit-half {_number(halves[measure], digits, unit)}"
    return text


def _shares(result: Figures, name: str) -> str:
    shares = (result.get(name) or {}).get("speech_share")
    if not shares:
        return "–"
    return " · ".join("–" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%" for share in shares)
