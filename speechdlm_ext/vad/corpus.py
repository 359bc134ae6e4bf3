"""Speech of whole corpora: found by all cores, kept as it comes, written as a manifest and a table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.locking import exclusive
from speechdlm_ext.io.manifest import errors_path, format_row, iter_jsonl, write_jsonl
from speechdlm_ext.io.naming import NameTable
from speechdlm_ext.io.pool import available_cores, run_in_processes, start_server
from speechdlm_ext.io.recordings import arrays_of, open_recording, read_manifest, recording_stamp
from speechdlm_ext.io.resume_log import ResumeLog, remove_finished_log
from speechdlm_ext.io.scan import AudioFiles
from speechdlm_ext.io.sharding import Shard, check_division, remove_shards, shard_of, shard_paths
from speechdlm_ext.vad.base import Detector
from speechdlm_ext.vad.statistics import bridge_by_speech, write_statistics

Row = dict[str, Any]
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
_MODULES = ("soundfile", "soxr")  # that worker processes share
_SORTED = 1000  # recordings of which the longest are begun first, so that no core is left alone with one at the end


@dataclass(frozen=True)
class Detecting:
    """How speech is found.

    Attributes:
        detector: of audio.
        bridge: join speech over short silences (:func:`bridge_by_speech`).
    """

    detector: Detector
    bridge: bool = False

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return {"vad": self.detector.name, **asdict(self.detector), "bridge": self.bridge}

    def __call__(self, item: tuple[str, Row]) -> tuple[str, Row]:
        """The row with its ``speech``, or with an ``error``; in a process of its own."""
        key, row = item
        try:
            return key, {**row, **self._found(row)}
        except (InputError, OSError) as error:
            return key, {**row, "error": one_line(error)}

    def _found(self, row: Mapping[str, Any]) -> Row:
        import numpy as np

        with open_recording(row) as files:
            first, blocks = files[0], list(arrays_of(row, files, files[0].sample_rate))
        wave = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        speech = self.detector.detect(wave, first.sample_rate)
        if self.bridge:
            speech = [bridge_by_speech(channel) for channel in speech]
        found: Row = {"duration": round(wave.shape[1] / first.sample_rate, 6)}
        if isinstance(row["audio_filepath"], str):
            found |= {"channels": first.channels, "sample_rate": first.sample_rate}
        if first.notes and "notes" not in row:
            found["notes"] = first.notes
        return found | {"vad": self.detector.name, "frame_shift": self.detector.frame_shift, "speech": speech}


@dataclass
class Detected:
    """What became of a corpus.

    Attributes:
        manifest, table: written files; ``table`` is None for a shard.
        recordings: of them.
        failed: of them, which are named in the manifest's ``.errors``.
        seconds: of sound.
        speech: of it, over all channels.
        channels: seconds of all channels.
    """

    manifest: Path
    table: Path | None
    recordings: int = 0
    failed: int = 0
    seconds: float = 0.0
    speech: float = 0.0
    channels: float = 0.0
    first_error: str = field(default="")

    def take(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self.recordings += 1
        if "error" in row:
            self.failed += 1
            self.first_error = self.first_error or row["error"]
            return
        self.seconds += row["duration"]
        self.channels += row["duration"] * len(row["speech"])
        self.speech += sum(end - start for channel in row["speech"] for start, end in channel)


def default_output(source: str | os.PathLike[str], folder: str = "metadata") -> Path:
    """``metadata/<name>_<date>`` of a folder or manifest; of a run that was stopped, its own date."""
    source = Path(os.path.abspath(source))
    name = source.name if source.is_dir() else source.stem
    unfinished = sorted(Path(folder).glob(f"{name}_??-??-??.jsonl.*"), key=os.path.getmtime)
    for path in reversed(unfinished):
        if path.name.endswith(".partial") or ".shard-" in path.name:
            return path.with_name(path.name.partition(".jsonl.")[0])
    return Path(folder, f"{name}_{date.today():%d-%m-%y}")


def start_workers(detector: Detector) -> None:
    """Begin to load what :func:`detect_corpus` needs in worker processes, before it is called."""
    start_server([__name__, *_MODULES, *detector.packages])


def detect_corpus(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    detecting: Detecting,
    num_workers: int = 0,
    shard: Shard | None = None,
    overwrite: bool = False,
    progress: Progress = lambda items, count: items,
    say: Callable[[str], object] = print,
) -> Detected:
    """Find the speech of every channel of every recording of a folder or a manifest.

    ``OUTPUT.jsonl.partial`` keeps what was found, recording by recording. Memory holds neither the list nor results.

    Args:
        source: a folder, which is searched to its depths, or a manifest, whose other fields stay.
        output: without suffix: of ``OUTPUT.csv`` in AMELA's columns, ``OUTPUT.jsonl``, and ``OUTPUT.jsonl.errors``;
            of a shard, ``OUTPUT.jsonl.shard-I-of-N``, see :func:`join_detected`.
        detecting: how.
        num_workers: processes; 0 for one for each core.
        shard: the part of the recordings to do.
        overwrite: replace other results.
        progress: wraps what is done, and is told how many recordings there are to do.
        say: called with lines of text for the user.

    Raises:
        InputError: nothing can be read, another run is at work, the list is another one than another shard's, or
            other results are there.
    """
    manifest = Path(f"{os.fspath(output)}.jsonl")
    _try(detecting.detector)  # what is not installed is said at once
    recordings = _Recordings(source)
    if shard is not None:
        check_division(manifest, shard, recordings.digest(), source, overwrite)
    target = shard.path(manifest) if shard is not None else manifest
    if target.exists() and not overwrite:
        return _existing(recordings, target, shard, say)
    settings = detecting.settings()
    with ResumeLog(target.with_name(target.name + ".partial"), settings) as log:
        if log.dropped:
            say(f"{log.path}: found in another way, starting over")
        total = len(range(shard.index, len(recordings), shard.count)) if shard is not None else len(recordings)
        known = log.entries if log.entries else {}

        def to_do() -> Iterator[tuple[str, Row, list[Any]]]:
            for key, row in recordings.items(shard):
                stamp = recording_stamp(row)
                if not known or known.get(key, {}).get("stamp") != stamp:
                    yield key, row, stamp

        left = sum(1 for _ in to_do()) if known else total
        if left < total:
            say(f"{total - left} of {total} recordings are done already")
        stamps: dict[str, Any] = {}

        def longest_first() -> Iterator[tuple[str, Row]]:
            items = to_do()
            while batch := list(islice(items, _SORTED)):
                for key, row, stamp in sorted(batch, key=lambda item: item[2][0][1:2], reverse=True):  # by bytes
                    stamps[key] = stamp
                    yield key, row

        workers = min(num_workers or available_cores(), max(1, left))
        with closing(run_in_processes(detecting, longest_first(), workers, preload=_MODULES)) as found:
            for key, row in progress(found, left):
                if "error" in row:
                    say(f"skipped: {row['error']}")
                log.add(key, {"stamp": stamps.pop(key), "row": row})
        made = Detected(target, None)
        rows = (log.entries[key]["row"] for key, _ in recordings.items(shard))
        if shard is not None:
            write_jsonl(target, _counted(rows, made))
        else:
            _write(Path(output), lambda: (log.entries[key]["row"] for key, _ in recordings.items()), made)
        log.remove()
    return made


def are_detected(output: str | os.PathLike[str]) -> bool:
    """Whether there are shards of ``OUTPUT.jsonl`` that :func:`detect_corpus` has written."""
    paths = [
        path for path in Path(output).parent.glob(f"{Path(output).name}.jsonl.shard-*") if path.suffix != ".partial"
    ]
    lines = (next(iter_jsonl(path), None) for path in paths if shard_of(path))
    return any(line is not None and ("vad" in line.row or "error" in line.row) for line in lines)


def join_detected(output: str | os.PathLike[str], overwrite: bool = False) -> Detected | None:
    """Write what one run would have written, from all shards; None where there are none.

    Raises:
        InputError: shards are missing or of other numbers, or the output is there.
    """
    manifest = Path(f"{os.fspath(output)}.jsonl")
    paths = shard_paths(manifest)
    if not paths:
        return None
    if manifest.exists() and not overwrite:
        raise InputError(f"{manifest} is there already: pass --overwrite to replace it")

    def rows() -> Iterator[Row]:
        rests = [iter_jsonl(path) for path in paths]
        place = 0
        while (line := next(rests[place % len(rests)], None)) is not None:
            yield line.row
            place += 1
        for rest in rests:
            if next(rest, None) is not None:
                raise InputError(f"{manifest}: its shards are not of the same recordings: run them again")

    made = Detected(manifest, None)
    _write(Path(output), rows, made)
    remove_shards(manifest)
    return made


class _Recordings:
    """Recordings of a folder or manifest: a key for each, and its row."""

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._manifest = None if os.path.isdir(source) else read_manifest(source)
        if self._manifest is None:
            self._files, self._names = AudioFiles(source), NameTable()
            for place, path in enumerate(self._files):
                self._names.add(place, path)
            self._names.settle()

    def __len__(self) -> int:
        return len(self._files if self._manifest is None else self._manifest)

    def digest(self) -> str:
        """What tells whether two lists are of the same recordings."""
        digest = hashlib.sha256()
        for key, _ in self.items():
            digest.update(key.encode("utf-8", "backslashreplace") + b"\0")
        return digest.hexdigest()

    def items(self, shard: Shard | None = None) -> Iterator[tuple[str, Row]]:
        """Those of a shard, in order."""
        for place, (key, row) in enumerate(self._all()):
            if shard is None or place % shard.count == shard.index:
                yield key, row

    def _all(self) -> Iterator[tuple[str, Row]]:
        if self._manifest is not None:
            yield from ((row["id"], row) for row in self._manifest)
            return
        for path, (name, _) in zip(self._files, self._names.names(), strict=True):
            text = os.fsencode(path).decode(errors="backslashreplace")
            yield text, {"id": name, "audio_filepath": os.fspath(path) if text == str(path) else text}


def _counted(rows: Iterable[Row], made: Detected) -> Iterator[Row]:
    for row in rows:
        made.take(row)
        yield row


def _write(output: Path, rows: Callable[[], Iterator[Row]], made: Detected) -> None:
    """The manifest, what was skipped, and the table."""
    manifest, table = Path(f"{output}.jsonl"), Path(f"{output}.csv")
    errors = errors_path(manifest)
    several = any(len(row.get("speech", ())) > 1 for row in rows())
    with exclusive(manifest), atomic_write(manifest) as good, atomic_write(errors) as bad, atomic_write(table) as file:

        def written() -> Iterator[Row]:
            for row in _counted(rows(), made):
                (bad if "error" in row else good).write(format_row(row))
                yield row

        write_statistics(file, written(), several)
        if made.failed == made.recordings:
            raise InputError(f"none of {made.failed} recordings can be read; the first: {made.first_error}")
    if not made.failed:
        errors.unlink(missing_ok=True)
    made.manifest, made.table = manifest, table


def _existing(recordings: _Recordings, target: Path, shard: Shard | None, say: Callable[[str], object]) -> Detected:
    """What was found before, if it is of these recordings."""
    made = Detected(target, None if shard is not None else target.with_suffix(".csv"))
    errors = errors_path(target)
    failed = {line.row["id"] for line in iter_jsonl(errors)} if errors.is_file() else set()
    there = (line.row for line in iter_jsonl(target))
    for _, row in recordings.items(shard):
        if row["id"] in failed:
            made.take({"error": ""})
            continue
        found = next(there, None)
        if found is None or (found["id"], found["audio_filepath"]) != (row["id"], row["audio_filepath"]):
            raise InputError(f"{target} is there already, of other recordings: pass --overwrite or another output")
        made.take(found)
    if next(there, None) is not None:
        raise InputError(f"{target} is there already, of other recordings: pass --overwrite or another output")
    remove_finished_log(target.with_name(target.name + ".partial"))
    say(f"{target} is there already: nothing to do")
    return made


def _try(detector: Detector) -> None:
    """Raise the InputError of a detector whose package is not installed."""
    import numpy as np

    detector.detect(np.zeros((1, 1600), np.float32), 16000)
