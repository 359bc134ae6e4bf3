"""The list of dialogues on a page: a figure a column, a dialogue a row, and the player above it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.events import KINDS, EventList, Events
from speechdlm_ext.metrics.summary import counts_and_seconds, observed_minutes
from speechdlm_ext.report.glossary import EVENTS, FURTHER, MEASURES, spell
from speechdlm_ext.report.page import json_script
from speechdlm_ext.report.timeline import channel_name

_RATES = tuple(KINDS.values())
_MEANS = ("ipu", "pause", "gap", "overlap", "turn", "floor_transfer_offset")


@dataclass(frozen=True)
class Column:
    """A figure of every dialogue: ``label`` and ``unit`` for the head, ``words`` for menus, one line of ``meaning``."""

    key: str
    label: str
    unit: str
    words: str
    meaning: str
    digits: int = 1


def figure_columns(corpora: Sequence[tuple[Events, Sequence[Mapping[str, Any]]]]) -> list[Column]:
    """Length, speech of each channel, rates and means of the events, and each further figure by its key."""
    width = max((events.channel_speech.shape[1] for events, _ in corpora), default=0)
    columns = [Column("seconds", "Length", "s", "length, s", "Seconds of conversation that were measured")]
    for number in range(width):
        name = channel_name(number)
        meaning = f"Share of the time in which channel {name} speaks"
        columns.append(Column(f"speech_{name}", f"{name} speaks", "%", f"{name} speaks, %", meaning, 0))
    for measure, kinds, digits in (("per_minute", _RATES, 1), ("mean", _MEANS, 2)):
        term = MEASURES[measure]
        for kind in kinds:
            label = EVENTS[kind].label
            head = label if measure == "per_minute" else f"{label}, {term.label}"
            meaning = f"{EVENTS[kind].meaning}. {term.meaning}"
            words = f"{label}, {term.label}" + (f", {term.unit}" if measure == "mean" else "")
            columns.append(Column(f"{kind}.{measure}", head, term.unit, words, meaning, digits))
    keys = {key: None for _, rows in corpora for row in rows for key in row}
    return columns + [_further_column(key) for key in keys]


def _further_column(key: str) -> Column:
    """A figure by its key, such as ``words`` or ``sound.A.level``: group, channel, name."""
    *place, base = key.split(".")
    after = f" {place[-1]}" if place else ""
    term = FURTHER.get(base)
    if term is None:
        words = spell(base) + after
        return Column(key, words, "", words, words, 2)
    label = term.label + after
    return Column(key, label, term.unit, f"{label}, {term.unit}" if term.unit else label, term.meaning, 2)


def figure_rows(
    columns: Sequence[Column], events: Events, further: Sequence[Mapping[str, Any]]
) -> list[list[float | None]]:
    """The figures of each conversation, one list for each, in the order of ``columns``; None where nothing is known."""
    count = events.conversations
    found: dict[str, NDArray[np.float64]] = {"seconds": events.durations.astype(np.float64)}
    spoken = events.channel_speech.any(axis=1) if events.channel_speech.size else np.zeros(count, bool)
    for number in range(events.channel_speech.shape[1]):
        there = (events.channel_counts > number) & (events.durations > 0)
        found[f"speech_{channel_name(number)}"] = _divide(
            100 * events.channel_speech[:, number], events.durations, there
        )
    for attribute, kind in KINDS.items():
        column: EventList = getattr(events, attribute)
        number_of, seconds = counts_and_seconds(column, count)
        minutes = observed_minutes(events, kind)
        found[f"{kind}.per_minute"] = _divide(number_of, minutes, (minutes > 0) & spoken)
        found[f"{kind}.mean"] = _divide(seconds, number_of, (minutes > 0) & spoken & (number_of > 0))
    rows = []
    for index in range(count):
        own = further[index] if index < len(further) else {}
        rows.append([_known(found[c.key][index] if c.key in found else own.get(c.key)) for c in columns])
    return rows


def _divide(above: NDArray, below: NDArray, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=known)


def _known(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return round(float(value), 4) if math.isfinite(value) else None


def list_markup(columns: Sequence[Column], name: str) -> str:
    """Player, filter and an empty table, for ``assets/dialogues.js`` to fill; ``name`` is the table's."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button" title="{escape(c.meaning)}">{escape(c.label)}'
        f"{f'<small>{escape(c.unit)}</small>' if c.unit else ''}</button></th>"
        for c in columns
    )
    return (
        f'<div data-dialogues><figure class="timeline" aria-label="Player"></figure>{_FILTER}'
        '<p class="note" role="status"></p>'
        f'<div class="scroll list" tabindex="0" role="region" aria-label="{escape(name)}">'
        '<table class="dialogues"><thead><tr><th scope="col" aria-sort="none"><button type="button">Dialogue</button>'
        f"</th>{heads}</tr></thead><tbody></tbody></table></div>"
        '<button type="button" class="more" hidden>Show more</button></div>'
    )


_FILTER = (
    '<form class="filter" aria-label="Sort and filter the dialogues">'
    '<label>Name<input type="search" name="name" autocomplete="off" placeholder="part of it"></label>'
    '<label>Corpus<select name="corpus"></select></label>'
    '<label>Sorted by<select name="sort"></select></label>'
    '<label>Order<select name="direction"><option value="down">greatest first</option>'
    '<option value="up">least first</option></select></label>'
    '<div class="conditions"><fieldset><legend class="unseen">Condition 1</legend>'
    '<label>Figure<select></select></label><label>at least<input type="number" step="any"></label>'
    '<label>at most<input type="number" step="any"></label></fieldset></div>'
    '<div class="actions"><button type="button" class="add">Add a condition</button>'
    '<button type="reset">Clear</button></div></form>'
)


def list_data(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    """The rows for ``assets/dialogues.js``: of each its ``id``, ``corpus``, ``name`` and ``values``."""
    heads = [{"key": c.key, "words": c.words, "digits": c.digits} for c in columns]
    return json_script({"columns": heads, "rows": list(rows)}, "dialogue-list")
