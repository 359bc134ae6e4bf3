"""The text of a whole manifest: what is missing is recognised, kept as it comes, and added to the rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechdlm_ext.asr import RecogniserOptions, build_recogniser, describe_recogniser
from speechdlm_ext.asr.text_rows import has_text, text_base
from speechdlm_ext.asr.transcription import BatchSize, Transcribed, transcribe_rows
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import exclusive
from speechdlm_ext.io.manifest import NumbersOnDisk, errors_path, iter_jsonl, row_at, write_jsonl
from speechdlm_ext.io.recordings import (
    PART_FIELDS,
    checked_lines,
    recording_key,
    recording_seconds,
    recording_stamp,
    with_absolute_paths,
)
from speechdlm_ext.io.resume_log import LoggedResults, ResumeLog
from speechdlm_ext.io.sharding import Shard, check_division
from speechdlm_ext.modules.devices import open_device
from speechdlm_ext.vad import Detector, build_detector
from speechdlm_ext.vad.energy import Energy

_ROWS_AT_ONCE = 2000  # that are sorted by length
ADDED = ("text", "words")


@dataclass(frozen=True)
class Summary:
    """What became of a manifest.

    Attributes:
        rows: of the manifest, or shard.
        had_text: of them, before.
        transcribed: of them, now or by a run before that was stopped.
        failed: of them.
        path: where the results are.
        errors: which were skipped, and why.
    """

    rows: int
    had_text: int
    transcribed: int
    failed: int
    path: Path
    errors: Path


@dataclass(frozen=True)
class TextOptions:
    """How text is made.

    Attributes:
        recogniser: which, and what it is told.
        detector: what ``--vad`` names, or "none".
        batch_seconds: recognised at once; see :class:`.BatchSize`.
        workers: threads that read.
    """

    recogniser: RecogniserOptions
    detector: str = "energy"
    batch_seconds: float | None = None
    workers: int = 2


def transcribe_manifest(
    manifest: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    options: TextOptions,
    shard: Shard | None = None,
    overwrite: bool = False,
    progress: Callable[[Iterable[Transcribed], float], Iterable[Transcribed]] = lambda items, seconds: items,
    say: Callable[[str], object] = print,
) -> Summary:
    """Add ``text`` (and ``words``) to the rows of a manifest that have none.

    What is done is kept in ``OUTPUT.partial``, batch by batch. Memory holds neither the manifest nor the results.

    Args:
        manifest: the recordings; its other fields stay.
        output: the manifest to write; None to change the manifest itself, at the end and at once. Of a shard the
            results alone are written, to ``<output>.shard-I-of-N`` or ``<manifest>.text.shard-I-of-N``.
        options: how text is made.
        shard: the part of the rows to do.
        overwrite: replace another output.
        progress: wraps what is done, and is told the length of what is still to do, in seconds.
        say: called with lines of text for the user.

    Raises:
        InputError: the manifest is invalid, or changes meanwhile, or is another one than for the other shards; another
            run is at work on the same output; the output exists and is another one; or nothing could be recognised.
    """
    recogniser = build_recogniser(options.recogniser)
    detector = None if options.detector in ("", "none") else _audio_detector(options.detector)
    settings = {"recogniser": describe_recogniser(options.recogniser), "vad": options.detector}
    base = text_base(manifest) if output is None else Path(output)
    results = base if shard is None else shard.path(base)
    before = _state(manifest)
    if output is not None and os.path.abspath(output) == os.path.abspath(manifest):
        raise InputError(f"{output} is the manifest: pass --in-place in place of an output")
    with ExitStack() as stack:
        log = stack.enter_context(ResumeLog(results.with_name(results.name + ".partial"), settings))
        if log.dropped:
            say(f"{log.path}: made by another recogniser or with other settings, starting over")
        plan = _Plan(manifest, shard, log.entries)
        check_division(base, shard, plan.digest, manifest, overwrite)
        if results.exists() and (shard is not None or output is not None) and not overwrite:
            summary = _existing(manifest, results, plan, shard, say)
            log.remove()
            return summary
        if len(plan.offsets) < plan.rows:
            say(f"{plan.rows - len(plan.offsets)} of {plan.rows} recordings have a text already")
        failed: dict[str, str] = {}
        batch = BatchSize(options.batch_seconds, open_device(options.recogniser.device))
        found = _transcribed(manifest, plan.offsets, recogniser, batch, detector, options.workers)
        with closing(found):
            for one in progress(found, plan.seconds):
                key = recording_key(one.row)
                if one.error is not None:
                    failed[key] = one.error
                    say(f"skipped: {one.error}")
                else:
                    log.add(key, {"source": recording_stamp(one.row), "fields": one.fields()})
        if failed and len(failed) == plan.rows and shard is None:
            raise InputError(f"none of {plan.rows} recordings could be read; the first: {next(iter(failed.values()))}")
        target = Path(manifest) if results == text_base(manifest) else results
        with exclusive(manifest, wait=60) if target == Path(manifest) else ExitStack():
            if _state(manifest) != before:
                raise InputError(f"{manifest} was changed meanwhile: run the same command again; no text is lost")
            if log.entries or target != Path(manifest):
                write_jsonl(target, _written(manifest, shard, log.entries))
        if failed:
            write_jsonl(errors_path(results), _errors(manifest, failed))
        else:
            errors_path(results).unlink(missing_ok=True)
        log.remove()
    return Summary(
        plan.rows, plan.had_text, plan.rows - plan.had_text - len(failed), len(failed), target, errors_path(results)
    )


class _Plan:
    """What there is to do: where its rows begin, and a digest of all rows."""

    def __init__(self, manifest: str | os.PathLike[str], shard: Shard | None, known: Mapping[str, Any]) -> None:
        self.offsets = NumbersOnDisk()
        self.rows = self.had_text = 0
        self.seconds = 0.0
        digest = hashlib.sha256()
        known = known if known else {}  # most often nothing is known, and no file has to be looked at
        for place, line in enumerate(checked_lines(manifest)):
            key = recording_key(line.row)
            if shard is not None:
                digest.update(key.encode("utf-8", "backslashreplace") + b"\0")
                if place % shard.count != shard.index:
                    continue
            self.rows += 1
            if has_text(line.row):
                self.had_text += 1
            elif key not in known or known[key]["source"] != recording_stamp(line.row):
                self.offsets.append(line.offset)
                self.seconds += line.row.get("duration") or recording_seconds(line.row)
        self.digest = digest.hexdigest()


def _audio_detector(spec: str) -> Detector:
    import numpy as np

    detector = build_detector(spec)
    if detector.reads != "audio":
        raise InputError(f"--vad {spec}: it does not read audio; expected energy, silero, ten or none")
    if not isinstance(detector, Energy):  # which lacks nothing, and whose filters take a second to be imported
        detector.detect(np.zeros((1, 1600), np.float32), 16000)  # what is not installed is said at once
    return detector


def _transcribed(
    manifest: str | os.PathLike[str],
    offsets: NumbersOnDisk,
    recogniser: Any,
    batch: BatchSize,
    detector: Any,
    workers: int,
) -> Generator[Transcribed, None, None]:
    folder = os.path.dirname(os.path.abspath(manifest))
    with open(manifest, "rb") as file:
        for first in range(0, len(offsets), _ROWS_AT_ONCE):
            places = range(first, min(first + _ROWS_AT_ONCE, len(offsets)))
            rows = [with_absolute_paths(row_at(file, offsets[place]), folder) for place in places]
            if batch.seconds:
                rows.sort(key=recording_seconds, reverse=True)
            with closing(transcribe_rows(rows, recogniser, batch, detector, workers)) as found:
                yield from found


def _written(manifest: str | os.PathLike[str], shard: Shard | None, known: LoggedResults) -> Iterator[dict[str, Any]]:
    """The rows with what was found, and absolute paths; of a shard those for which something was found."""
    folder = os.path.dirname(os.path.abspath(manifest))
    for place, line in enumerate(iter_jsonl(manifest)):
        if shard is not None and place % shard.count != shard.index:
            continue
        row = with_absolute_paths(line.row, folder)
        if not has_text(row):
            row = {**row, **known.get(recording_key(row), {}).get("fields", {})}
        if shard is None or has_text(row):
            yield row


def _errors(manifest: str | os.PathLike[str], failed: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for line in checked_lines(manifest):
        if (error := failed.get(recording_key(line.row))) is not None:
            kept = {key: line.row[key] for key in ("id", "audio_filepath", *PART_FIELDS) if key in line.row}
            yield {**kept, "error": error}


def _existing(
    manifest: str | os.PathLike[str], results: Path, plan: _Plan, shard: Shard | None, say: Callable[[str], object]
) -> Summary:
    """What a file of results that is there already says, if it is of these recordings."""
    errors = errors_path(results)
    failed = {recording_key(line.row) for line in iter_jsonl(errors)} if errors.is_file() else set()
    there = (line.row for line in iter_jsonl(results))
    for place, line in enumerate(checked_lines(manifest)):
        if shard is not None and place % shard.count != shard.index:
            continue
        key = recording_key(line.row)
        if shard is not None and key in failed:
            continue
        row = next(there, {})
        if "audio_filepath" not in row or recording_key(row) != key or (key not in failed and not has_text(row)):
            raise InputError(f"{results} is there already, with other recordings: pass --overwrite to replace it")
    if next(there, None) is not None:
        raise InputError(f"{results} is there already, with more recordings: pass --overwrite to replace it")
    say(f"{results} is complete already" + (f", without {len(failed)} that {errors} names" if failed else ""))
    return Summary(plan.rows, plan.had_text, plan.rows - plan.had_text - len(failed), len(failed), results, errors)


def _state(path: str | os.PathLike[str]) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    return status.st_size, status.st_mtime_ns
