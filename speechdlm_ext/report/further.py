"""Figures that are not turn-taking events, as tables: units, likelihood, words, sound, and Full-Duplex-Bench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from speechdlm_ext.report.glossary import EVENTS, FURTHER, spell
from speechdlm_ext.report.page import table
from speechdlm_ext.report.timeline import channel_name

Figures = Mapping[str, Any]


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
