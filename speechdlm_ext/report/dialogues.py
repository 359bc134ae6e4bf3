"""The list of dialogues on a page: a dialogue a row, a figure a column, and the player above it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.evaluation.schema import EVENTS, GROUPS, channel_name, find_figure, spell
from speechdlm_ext.metrics.events import KINDS, EventList, Events
from speechdlm_ext.metrics.summary import counts_and_seconds, observed_minutes
from speechdlm_ext.report.page import json_script

_MEANS = ("ipu", "pause", "gap", "overlap", "turn", "floor_transfer_offset")


@dataclass(frozen=True)
class Column:
    """A figure of every dialogue: ``label`` and ``unit`` for the head, one line of ``meaning``."""

    key: str
    label: str
    unit: str
    meaning: str
    digits: int = 1


def figure_columns(corpora: Sequence[tuple[Events, Sequence[Mapping[str, Any]]]]) -> list[Column]:
    """Duration, speech of each channel, rates and means of the events, and each further figure by its key."""
    width = max((events.channel_speech.shape[1] for events, _ in corpora), default=0)
    columns = [Column("seconds", "Duration", "s", "Seconds that were measured")]
    for number in range(width):
        name = channel_name(number)
        columns.append(Column(f"speech_{name}", f"Speech of {name}", "%", f"Time with speech on channel {name}", 0))
    for measure, kinds, digits in (("per_minute", tuple(EVENTS), 1), ("mean", _MEANS, 2)):
        figure = GROUPS["turn_taking"].figures[measure]
        for kind in kinds:
            label, meaning = EVENTS[kind]
            label = label if measure == "per_minute" else f"{label}, mean"
            columns.append(Column(f"{kind}.{measure}", label, figure.unit, f"{meaning}. {figure.meaning}", digits))
    keys = {key: None for _, rows in corpora for row in rows for key in row}
    return columns + [_further_column(key) for key in keys]


def _further_column(key: str) -> Column:
    """A figure by its key, such as ``words.words`` or ``sound.A.level``: group, channel, name."""
    group, *channel, base = key.split(".") if "." in key else ("", key)
    after = f" {channel[-1]}" if channel else ""
    figure = find_figure(group, base)
    if figure is None:
        return Column(key, spell(base) + after, "", spell(base) + after, 2)
    return Column(key, figure.label + after, "" if figure.unit == "%" else figure.unit, figure.meaning, 2)


def figure_rows(
    columns: Sequence[Column], events: Events, further: Sequence[Mapping[str, Any]]
) -> list[list[float | None]]:
    """The figures of each dialogue, one list for each, in the order of ``columns``; None where nothing is known."""
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
    """Player, search field and an empty table, for ``assets/dialogues.js`` to fill; ``name`` is the table's."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button" title="{escape(c.meaning)}">{escape(c.label)}'
        f"{f'<small>{escape(c.unit)}</small>' if c.unit else ''}</button></th>"
        for c in columns
    )
    return (
        '<div data-dialogues><figure class="timeline" aria-label="Player"></figure>'
        '<label class="search">Name or corpus <input type="search" name="name" autocomplete="off"></label>'
        '<p class="note" role="status"></p>'
        f'<div class="scroll list" tabindex="0" role="region" aria-label="{escape(name)}">'
        '<table class="dialogues"><thead><tr><th scope="col" aria-sort="none"><button type="button">Dialogue</button>'
        f"</th>{heads}</tr></thead><tbody></tbody></table></div>"
        '<button type="button" class="more" hidden>Show more</button></div>'
    )


def list_data(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    """The rows for ``assets/dialogues.js``: of each its ``id``, ``corpus``, ``name`` and ``values``."""
    return json_script({"digits": [column.digits for column in columns], "rows": list(rows)}, "dialogue-list")
