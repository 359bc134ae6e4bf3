"""metrics.csv: a row for each corpus as a whole, and one for each dialogue."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from typing import Any

from speechdlm_ext.evaluation.eval_set import Side
from speechdlm_ext.evaluation.metrics_json import channel_name
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.metrics.events import KINDS, Events, one_conversation
from speechdlm_ext.metrics.summary import summarise

ALL = "(all)"
_EVENT_MEASURES = ("n", "per_minute", "seconds_per_minute", "mean", "median")
_SOUND_MEASURES = ("level", "peak", "clipped", "silent", "bandwidth", "dc", "snr")


def dialogue_figures(side: Side) -> list[dict[str, Any]]:
    """Of each dialogue the figures that are not events, by name, for tables: sound and words of each channel."""
    rows = []
    for measurement in side.measurements:
        row: dict[str, Any] = {}
        for number, channel in enumerate(measurement.sound):
            row |= {f"sound.{channel_name(number)}.{name}": channel[name] for name in _SOUND_MEASURES}
        if measurement.words:
            row["words"] = sum(len(part["text"].split()) for channel in measurement.words for part in channel)
        rows.append(row)
    return rows


def write_csv(path: str | os.PathLike[str], sides: Mapping[str, Side], result: Mapping[str, Any]) -> None:
    """Write the table; what is not known is an empty field."""
    rows: list[dict[str, Any]] = []
    made_by = {"activity": result["activity"]["method"]}
    for name, side in sides.items():
        rows.append({"corpus": name, "dialogue": ALL, **made_by, **_flat(result[name], side.events)})
    for name, side in sides.items():
        further = dialogue_figures(side)
        for number, dialogue in enumerate(side.dialogues):
            own = one_conversation(side.events, number)
            figures = {"corpus": name, "dialogue": dialogue.name, **made_by, **_flat(summarise(own), own)}
            rows.append({**figures, **further[number]})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8", "replace").decode("utf-8"))


def _flat(figures: Mapping[str, Any], events: Events) -> dict[str, Any]:
    row: dict[str, Any] = {"minutes": figures["minutes"]}
    for number, share in enumerate(figures["speech_share"] or ()):
        row[f"speech_share.{channel_name(number)}"] = share
    for kind in KINDS.values():
        row |= {f"{kind}.{measure}": figures[kind][measure] for measure in _EVENT_MEASURES}
    return row
