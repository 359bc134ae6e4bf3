"""Corpora in their published layouts: which files are their recordings, under what names, with which speakers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """A layout.

    Attributes:
        help: where it comes from, for ``--corpus``.
        name: of the files below the folder, a regular expression of the end of their path; its group ``id`` is the
            recording's name, and files with the same one are the channels of one recording, in their order.
        channels: that a recording has; None for any number.
        files_of_channels: whether each channel is a file of its own.
        speakers: from the folder and the ids to the labels of the channels, where the corpus says them.
    """

    help: str
    name: str
    channels: int | None = 2
    files_of_channels: bool = False
    speakers: Callable[[Path], Mapping[str, Row]] | None = None

    def id_of(self, path: Path) -> str | None:
        """The name of the recording that a file is of; None for files that are no recordings of the corpus."""
        found = re.search(rf"(?:^|/)(?:{self.name})$", path.as_posix(), re.IGNORECASE)
        return found["id"] if found else None

    def rows(self, rows: Iterator[Row], folder: Path, channels: int | None) -> Iterator[Row]:
        """The rows of recordings from those of their files, in order of their names.

        Args:
            rows: of files, as they are scanned.
            folder: that holds them.
            channels: 2 makes a row of each pair of a recording's channels, where these are files of their own.
        """
        known = self.speakers(folder) if self.speakers else {}
        if not self.files_of_channels:
            seen: dict[str, str] = {}
            for row in rows:
                path = row["audio_filepath"]
                name = self.id_of(Path(path)) or ""
                if "error" not in row and (first := seen.setdefault(name, path)) != path:
                    row = {"audio_filepath": path, "error": f"{path}: {name} is {first} already"}
                yield row if "error" in row else {**row, "id": name, **known.get(name, {})}
            return
        for recording, group in groupby(rows, key=lambda row: self.id_of(Path(row["audio_filepath"]))):
            files = list(group)
            yield from (row for row in files if "error" in row)
            files = [row for row in files if "error" not in row]
            sizes = {(row["duration"], row["sample_rate"], row["channels"]) for row in files}
            if len(files) < 2 or len(sizes) > 1 or files[0]["channels"] != 1:
                reason = f"{len(files)} files" if len(files) < 2 else "files of unequal length, rate or channels"
                for row in files:
                    path = row["audio_filepath"]
                    yield {
                        "audio_filepath": path,
                        "error": f"{path}: {recording} has {reason}, expected mono files alike",
                    }
                continue
            pairs = list(combinations(range(len(files)), 2)) if channels == 2 else [tuple(range(len(files)))]
            for places in pairs:
                chosen = [files[place] for place in places]
                notes = [note for row in chosen for note in row.get("notes", ())]
                suffix = "-" + "-".join(map(str, places)) if len(places) < len(files) else ""
                yield {
                    **chosen[0],
                    "id": f"{recording}{suffix}",
                    "audio_filepath": [row["audio_filepath"] for row in chosen],
                    "channels": len(chosen),
                    **({"notes": notes} if notes else {}),
                }


def _fisher_speakers(folder: Path) -> dict[str, Row]:
    """Speaker PINs and topic of each call, from the tables ``*_calldata.tbl`` of the transcripts below the folder."""
    found: dict[str, Row] = {}
    for table in sorted(folder.rglob("*calldata.tbl")):
        with open(table, encoding="utf-8", errors="replace", newline="") as file:
            for line in csv.DictReader(file):
                if line.get("CALL_ID") and line.get("APIN") and line.get("BPIN"):
                    call: Row = {"speakers": [line["APIN"], line["BPIN"]]}
                    if line.get("TOPICID"):
                        call["topic"] = line["TOPICID"]
                    found[f"fe_03_{line['CALL_ID']}"] = call
    return found


def _candor_speakers(folder: Path) -> dict[str, Row]:
    """Who is left and right, from ``channel_map.json`` of each conversation, where there is one."""
    found: dict[str, Row] = {}
    for path in sorted(folder.rglob("channel_map.json")):
        try:
            sides = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError:
            continue
        if isinstance(sides, dict) and {"L", "R"} <= sides.keys():
            found[path.parent.parent.name] = {"speakers": [str(sides["L"]), str(sides["R"])]}
    return found


_SOUND = r"\.(?:sph|wav|flac)"
CORPORA: dict[str, Corpus] = {
    "fisher": Corpus(
        "Fisher English, parts 1 and 2 (LDC2004S13, LDC2005S13); with the transcripts' *_calldata.tbl below the folder "
        "also the speakers",
        rf"(?P<id>fe_03_\d{{5}}){_SOUND}",
        speakers=_fisher_speakers,
    ),
    "switchboard": Corpus("Switchboard-1 (LDC97S62)", rf"(?P<id>sw\d{{4,5}}){_SOUND}"),
    "candor": Corpus(
        "CANDOR: CONVERSATION/processed/*.mp3, a speaker on each side",
        r"(?P<id>[^/]+)/processed/[^/]+\.(?:mp3|wav|flac)",
        speakers=_candor_speakers,
    ),
    "ami": Corpus(
        "AMI's individual headsets, MEETING.Headset-N.wav: all of a meeting, or with --channels 2 each pair",
        r"(?P<id>[A-Z]{2}\d{4}[a-z]?)\.Headset-\d+\.(?:wav|flac)",
        None,
        True,
    ),
    "pairs": Corpus(
        "any folder with a file for each speaker: NAME_A.wav and NAME_B.wav, NAME-left.wav and NAME-right.wav, …",
        r"(?P<id>[^/]+)[-_. ](?:a|b|c|d|l|r|left|right|[0-9])\.\w+",
        None,
        True,
    ),
}
