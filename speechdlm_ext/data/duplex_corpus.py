"""Two-channel recordings with transcripts as conversations of a user and an agent, cut into segments and split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.asr.text_tokenizer import train_pieces
from speechdlm_ext.data.duplex_cuts import DuplexCut, cut_of_row
from speechdlm_ext.data.text_channel import check_turns
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import iter_jsonl

USER, AGENT = "user", "agent"
_LISTS = ("supervisions", "segments", "utterances")  # what files of transcripts call their turns


def read_transcripts(path: Path | None) -> dict[str, list[Mapping[str, Any]]]:
    """Turns by the recording's id, from JSON lines with ``id`` and ``supervisions`` (or segments, utterances)."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in iter_jsonl(path) if path else ():
        name, turns = line.row.get("id"), _turns_in(line.row)
        if not isinstance(name, str) or turns is None:
            raise InputError(f"{path}, line {line.number}: expected id and supervisions")
        found[name] = [*found.get(name, []), *turns]
    return found


def conversations(
    manifest: Path, transcripts: Mapping[str, Sequence[Mapping[str, Any]]], agent_channel: int = 1
) -> Iterator[dict[str, Any]]:
    """The rows of a manifest, or of lhotse cuts, as conversations with absolute paths.

    Turns are the row's own ``supervisions``, else its transcript, else those of a synthetic dialogue's record beside
    the recording. A turn has ``start``, ``duration`` or ``end``, ``text``, and ``speaker`` or ``channel`` (from 0).
    Turns of the agent that overlap become one.

    Raises:
        InputError: a row has no turns, or one beyond the recording, or is no recording of two sides.
    """
    for line in iter_jsonl(manifest):
        where = f"{manifest}, line {line.number}"
        row = {"agent_channel": agent_channel, **line.row}
        if _turns_in(row) is None:
            row["supervisions"] = transcripts.get(str(row.get("id"))) or _record(row, manifest, where)
        row["supervisions"] = [_turn(turn, int(row["agent_channel"]), where) for turn in _turns_in(row) or ()]
        cut = cut_of_row(row, where, str(manifest))
        if cut.target is None:
            raise InputError(f"{where}: one channel, expected the user's and the agent's")
        check_turns(cut.turns, cut.duration, (), where)
        yield _row_of(cut)


def cut_conversation(row: Mapping[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
    """Segments of at most so many seconds, which begin and end where nobody speaks, if there is such a place.

    A turn that goes over a border stays with its first part, as far as that goes.
    """
    start, end = 0.0, float(row["duration"])
    turns = sorted(row["supervisions"], key=lambda turn: turn["start"])
    number = 0
    while end - start > 1e-3:
        stop = min(start + seconds, end)
        if stop < end:
            stop = _quiet(turns, start + seconds / 2, stop) or stop
        inside = [turn for turn in turns if start <= turn["start"] < stop]
        yield {
            **row,
            "id": f"{row['id']}-{number:03d}" if end > seconds else row["id"],
            "offset": round(row.get("offset", 0.0) + start, 4),
            "duration": round(stop - start, 4),
            "supervisions": [
                {
                    **turn,
                    "start": round(turn["start"] - start, 4),
                    "duration": round(min(turn["duration"], stop - turn["start"]), 4),
                }
                for turn in inside
            ],
        }
        start, number = stop, number + 1


def split_conversations(rows: Sequence[dict[str, Any]], valid: float, seed: int) -> dict[str, list[dict[str, Any]]]:
    """``train`` and ``valid`` rows; whole recordings are held out, about a share ``valid`` of the time."""
    if not 0 <= valid < 1:
        raise InputError(f"--valid {valid}: a share from 0 on, below 1, is expected")
    files = sorted({json.dumps(row["audio_filepath"]) for row in rows})
    order = np.random.default_rng(seed).permutation(len(files))
    seconds = dict.fromkeys(files, 0.0)
    for row in rows:
        seconds[json.dumps(row["audio_filepath"])] += row["duration"]
    held: set[str] = set()
    for place in order[:-1]:
        if sum(seconds[name] for name in held) >= valid * sum(seconds.values()):
            break
        held.add(files[place])
    split: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    for row in rows:
        split["valid" if json.dumps(row["audio_filepath"]) in held else "train"].append(row)
    return split


def target_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The agent's side of each row, as :func:`.encode_codec` reads it."""
    return [{"id": row["id"], **(cut_of_row(row).target or {})} for row in rows]


def train_tokenizer(rows: Iterable[Mapping[str, Any]], size: int, path: Path) -> None:
    """Write a sentencepiece model of the agent's texts, with BOS, EOS and padding, for a language model that has none.

    Raises:
        InputError: there are not so many pieces in the texts.
    """
    texts = [turn["text"] for row in rows for turn in row["supervisions"] if turn["speaker"] == AGENT and turn["text"]]
    with atomic_write(path, "wb") as file:
        file.write(train_pieces(texts, "bpe", size, unk_id=0, bos_id=1, eos_id=2, pad_id=3))


def _turns_in(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    return next((list(row[key]) for key in _LISTS if isinstance(row.get(key), list)), None)


def _record(row: Mapping[str, Any], manifest: Path, where: str) -> list[Mapping[str, Any]]:
    """The utterances that ``make_dialogues.py`` keeps beside a recording."""
    audio = row.get("audio_filepath")
    record = (manifest.parent / audio).with_suffix(".json") if isinstance(audio, str) else None
    if record is None or not record.is_file():
        raise InputError(f"{where}: no supervisions, and no transcript with this id: pass --transcripts")
    return _turns_in(json.loads(record.read_text(encoding="utf-8"))) or []


def _turn(turn: Mapping[str, Any], agent_channel: int, where: str) -> dict[str, Any]:
    try:
        start = float(turn["start"])
        duration = float(turn["duration"] if "duration" in turn else turn["end"] - turn["start"])
        speaker = turn["speaker"] if "speaker" in turn else (AGENT if turn["channel"] == agent_channel else USER)
        return {"start": start, "duration": round(duration, 4), "text": str(turn["text"]), "speaker": str(speaker)}
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{where}: a turn {dict(turn)}: expected start, duration or end, text, and speaker or channel"
        ) from None


def _row_of(cut: DuplexCut) -> dict[str, Any]:
    """A conversation as a row of our own form."""
    source, target = cut.source, cut.target
    assert target is not None
    paths = [str(Path(side["audio_filepath"]).absolute()) for side in (source, target)]
    selectors = [side.get("channel_selector") for side in (source, target)]
    row: dict[str, Any] = {"id": cut.id, "duration": cut.duration}
    if paths[0] == paths[1] and sorted(selectors, key=str) == [0, 1]:
        row |= {"audio_filepath": paths[0], "agent_channel": selectors[1]}
    elif selectors == [None, None]:
        row["audio_filepath"] = paths
    else:
        raise InputError(f"{cut.where}: expected one stereo file, or two files of one channel each")
    if "offset" in source:
        row["offset"] = source["offset"]
    row["supervisions"] = _joined([vars(turn) for turn in cut.turns])
    return row


def _joined(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns in order of time; those of one speaker that overlap are one."""
    made: list[dict[str, Any]] = []
    for turn in sorted(turns, key=lambda turn: turn["start"]):
        same = next((one for one in reversed(made) if one["speaker"] == turn["speaker"]), None)
        if same is not None and turn["start"] < same["start"] + same["duration"]:
            end = max(same["start"] + same["duration"], turn["start"] + turn["duration"])
            same |= {"duration": round(end - same["start"], 4), "text": f"{same['text']} {turn['text']}"}
        else:
            made.append(dict(turn))
    return made


def _quiet(turns: Sequence[Mapping[str, Any]], earliest: float, latest: float) -> float | None:
    """The latest moment in a range in which nobody speaks; that is a turn's end, or the range's."""
    ends = [latest, *(turn["start"] + turn["duration"] for turn in turns)]
    quiet = (
        end
        for end in sorted(ends, reverse=True)
        if earliest <= end <= latest
        and not any(turn["start"] < end < turn["start"] + turn["duration"] for turn in turns)
    )
    return next(quiet, None)
