"""How figures were measured: thresholds and choices as they were given, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from speechdlm_ext.report.glossary import spell
from speechdlm_ext.report.page import table

_NOT_SETTINGS = (
    "version",
    "distance",
    "yardstick",
    "correlation",
    "measures",
)  # are shown with the figures, or no news


def method_tables(
    result: Mapping[str, Any], names: Sequence[str], where: str, unreadable: Sequence[tuple[str, str]]
) -> str:
    """What ``metrics.json`` says beside figures, a table for each of its parts.

    Args:
        result: what it holds.
        names: the corpora's keys in it.
        where: in words, where the dialogues' sound is.
        unreadable: name and reason of dialogues whose sound could not be read.
    """
    groups: dict[str, list[list[str]]] = {"": [["Dialogues with sound", where]]}
    parts = []
    for key, value in result.items():
        if key in (*names, *_NOT_SETTINGS):
            continue
        if isinstance(value, Mapping):
            groups[spell(key).capitalize()] = [[label, text] for label, text in _settings(value)]
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            heads = list(dict.fromkeys(name for item in value for name in item))
            cells = [[_setting(item.get(name)) or "" for name in heads] for item in value]
            shown = table([spell(name) for name in heads], cells, stacked=True)
            parts.append(f"<h3>{escape(spell(key).capitalize())}</h3>{shown}")
        elif text := _setting(value):
            groups[""].append([spell(key), text])
    if unreadable:
        lost = [[name, reason] for name, reason in unreadable]
        parts.append(f"<h3>Sound that could not be read</h3>{table(['Dialogue', 'Why'], lost, stacked=True)}")
    settings = "".join(
        (f"<h3>{escape(title)}</h3>" if title else "") + table(["", ""], rows, stacked=True)
        for title, rows in groups.items()
        if rows
    )
    return f'<div class="settings">{settings}{"".join(parts)}</div>'


def _settings(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
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
