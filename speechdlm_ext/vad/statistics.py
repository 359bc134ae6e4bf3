"""Statistics of speech and silence, in AMELA's columns."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from speechdlm_ext.metrics.intervals import Interval

COLUMNS = (
    "audio_filepath", "duration", "max-spoken", "min-spoken", "avg-spoken", "max-nospch", "min-nospch", "avg-nospch",
    "spch-ratio", "splits", "error",
)  # fmt: skip
CHANNEL = "channel"  # the last column, where a recording has several
SPLIT_SECONDS, SPLIT_REACH, SPLIT_SILENCE = 30.0, 10.0, 0.3  # between splits; looked at behind each; of a silence
_LONGEST_BRIDGED, _SHORTEST_BRIDGED, _PER_SECOND = 0.3, 0.1, 0.1  # seconds, and per second of speech


@dataclass(frozen=True)
class SpeechStatistics:
    """Of one channel, in seconds; 0 where there is none.

    Attributes:
        spoken, silent: longest, shortest and mean stretch of speech, and of silence.
        ratio: share of the time that is speech.
        splits: frames in the middle of silences, near every 30 s, where a long recording may be cut.
    """

    spoken: tuple[float, float, float]
    silent: tuple[float, float, float]
    ratio: float
    splits: list[int]


def measure_speech(
    speech: Sequence[Interval], duration: float, frame_shift: float | None = None, whole_frames: bool = False
) -> SpeechStatistics:
    """Statistics of the speech of a channel.

    Args:
        speech: (start, end) in seconds, in order.
        duration: seconds.
        frame_shift: seconds between two decisions; None if there are none, nor splits then.
        whole_frames: what is behind the last whole frame was not judged and does not count.
    """
    if frame_shift and whole_frames:
        duration = math.floor(duration / frame_shift + 1e-6) * frame_shift
    ends = [0.0, *(end for _, end in speech)]
    starts = [*(start for start, _ in speech), duration]
    silences = [(end, start) for end, start in zip(ends, starts, strict=True) if start - end > 1e-6]
    spoken = [end - start for start, end in speech]
    splits = []
    if duration >= SPLIT_SECONDS and frame_shift:
        middles = [(end + start) / 2 for end, start in silences if start - end >= SPLIT_SILENCE - 1e-6]
        for number in range(1, int(duration / SPLIT_SECONDS) + 1):
            target = number * SPLIT_SECONDS
            found = next((middle for middle in middles if target <= middle <= target + SPLIT_REACH), None)
            splits += [] if found is None else [int(found / frame_shift + 1e-6)]
    ratio = sum(spoken) / duration if duration else 0.0
    return SpeechStatistics(_of(spoken), _of([start - end for end, start in silences]), ratio, splits)


def bridge_by_speech(speech: Sequence[Interval]) -> list[Interval]:
    """Speech without its short silences, as AMELA's later version joins it.

    A silence is bridged where it is shorter than 0.3 s less a tenth of the speech before it, but at least 0.1 s.
    """
    joined: list[Interval] = []
    for start, end in speech:
        if joined:
            before = joined[-1][1] - joined[-1][0]
            if start - joined[-1][1] < max(_SHORTEST_BRIDGED, _LONGEST_BRIDGED - _PER_SECOND * before):
                joined[-1] = (joined[-1][0], end)
                continue
        joined.append((start, end))
    return joined


def write_statistics(file: IO[str], rows: Iterable[Mapping[str, Any]], several: bool) -> None:
    """Write the CSV of recordings, a line for each channel.

    Args:
        file: open to be written.
        rows: with ``speech`` of each channel, ``vad`` and ``frame_shift``, or with an ``error``.
        several: whether there is a column for the channel.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, CHANNEL] if several else COLUMNS)
    for row in rows:
        if "error" in row:
            writer.writerow([row["audio_filepath"], *[""] * 9, row["error"], *([""] if several else [])])
            continue
        for number, speech in enumerate(row["speech"], 1):
            intervals = [(start, end) for start, end in speech]
            found = measure_speech(intervals, row["duration"], row["frame_shift"], row["vad"] == "ten")
            seconds = [round(value, 6) for value in (*found.spoken, *found.silent, found.ratio)]
            line = [row["audio_filepath"], row["duration"], *seconds, found.splits, ""]
            writer.writerow([*line, number] if several else line)


def _of(lengths: Sequence[float]) -> tuple[float, float, float]:
    return (max(lengths), min(lengths), sum(lengths) / len(lengths)) if lengths else (0.0, 0.0, 0.0)
