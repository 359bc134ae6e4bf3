"""Recordings and cuts of lhotse (github.com/lhotse-speech/lhotse) to rows of manifests and back, as JSON lines."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from speechdlm_ext.errors import InputError

Row = dict[str, Any]


def read_lhotse(path: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows of a ``recordings.jsonl`` or ``cuts.jsonl``, perhaps with ``.gz``.

    A cut that is a part of its recording has ``offset``; the words of its supervisions become ``text``, their
    speakers, one for each channel, ``speakers``. Other fields (``custom``) stay.

    Raises:
        InputError: a line is no recording or cut of files, or one that is put together of several (mixed cuts).
    """
    opened: Any = gzip.open if os.fspath(path).endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            yield from _rows(file, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def _rows(file: IO[str], path: str | os.PathLike[str]) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            item = json.loads(line)
        except ValueError:
            raise InputError(f"{where}: not JSON; expected a recording or a cut of lhotse") from None
        yield manifest_row(item, where)


def manifest_row(item: Any, where: str) -> Row:
    """The row of a recording or cut; raises :class:`InputError` as :func:`read_lhotse`, which names ``where``."""
    recording = item.get("recording", item) if isinstance(item, dict) else {}
    if not isinstance(recording, dict) or "sources" not in recording or "tracks" in item:
        raise InputError(f"{where}: expected a recording, or a cut of one recording, of lhotse")
    sources = recording["sources"]
    if any(source.get("type") != "file" for source in sources):
        raise InputError(f"{where}: a source that is no file: {sources[0].get('type')}")
    if recording.get("transforms"):
        raise InputError(f"{where}: a recording with transforms, which are not done here: save it with lhotse first")
    channels = recording.get("channel_ids") or sorted(c for source in sources for c in source["channels"])
    row: Row = {"id": item["id"].replace("/", "_")}
    if len(sources) == 1:
        row |= {"audio_filepath": sources[0]["source"]}
    else:
        ordered = sorted(sources, key=lambda source: min(source["channels"]))
        row |= {"audio_filepath": [source["source"] for source in ordered]}
    row |= {"duration": item["duration"], "channels": len(channels), "sample_rate": recording["sampling_rate"]}
    if "recording" in item:
        if item.get("start") or abs(item["duration"] - recording["duration"]) > 1e-3:
            row["offset"] = item.get("start", 0.0)
        chosen = item.get("channel", channels)
        chosen = chosen if isinstance(chosen, list) else [chosen]
        if list(chosen) != list(channels) and len(sources) == 1:
            row["channel_selector"] = [list(channels).index(one) for one in chosen]
        supervisions = item.get("supervisions", [])
        if text := " ".join(one["text"] for one in supervisions if one.get("text")):
            row["text"] = text
        speakers = {one["channel"]: one["speaker"] for one in supervisions if one.get("speaker") is not None}
        if all(isinstance(one, int) for one in speakers) and set(speakers) == set(channels):
            row["speakers"] = [speakers[channel] for channel in channels]
    return row | (item.get("custom") or {})


def lhotse_lines(rows: Iterable[Mapping[str, Any]], cuts: bool = False) -> Iterator[Row]:
    """Recordings, or cuts, of lhotse from rows of a manifest with ``channels`` and ``sample_rate``.

    Raises:
        InputError: a row does not say its channels and rate, or is a part and no cuts were asked for.
    """
    for row in rows:
        try:
            yield _cut(row) if cuts else _recording(row)
        except KeyError as error:
            raise InputError(
                f"{row.get('id')}: no {error} in its row: list the recordings by data_prep/make_manifest.py first"
            ) from None


def _recording(row: Mapping[str, Any], whole: float | None = None) -> Row:
    if whole is None and row.get("offset") is not None:
        raise InputError(f"{row['id']} is a part of a recording, which only cuts can say: OUTPUT cuts.jsonl")
    audio, count, rate = row["audio_filepath"], int(row["channels"]), int(row["sample_rate"])
    files = [audio] if isinstance(audio, str) else audio
    of_files = [list(range(count))] if len(files) == 1 else [[number] for number in range(len(files))]
    duration = row["duration"] if whole is None else whole
    return {
        "id": row["id"],
        "sources": [
            {"type": "file", "channels": channels, "source": file}
            for channels, file in zip(of_files, files, strict=True)
        ],
        "sampling_rate": rate,
        "num_samples": round(duration * rate),
        "duration": duration,
        "channel_ids": [number for channels in of_files for number in channels],
    }


def _cut(row: Mapping[str, Any]) -> Row:
    whole = None
    if row.get("offset") is not None:
        from speechdlm_ext.io.audio import audio_info
        from speechdlm_ext.io.recordings import audio_paths

        whole = audio_info(audio_paths(row)[0]).duration
    recording = _recording(row, whole)
    channels = recording["channel_ids"]
    selector = row.get("channel_selector")
    if selector is not None:
        channels = selector if isinstance(selector, list) else [selector]
    supervisions = []
    if row.get("text"):
        supervisions.append(
            {
                "id": row["id"],
                "recording_id": row["id"],
                "start": 0.0,
                "duration": row["duration"],
                "channel": channels if len(channels) > 1 else channels[0],
                "text": row["text"],
            }
        )
    several = len(channels) > 1
    return {
        "id": row["id"],
        "start": row.get("offset") or 0.0,
        "duration": row["duration"],
        "channel": channels if several else channels[0],
        "supervisions": supervisions,
        "recording": recording,
        "type": "MultiCut" if several else "MonoCut",
    }
