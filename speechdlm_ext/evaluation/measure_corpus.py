"""Every dialogue measured once, on all cores, and kept, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from typing import Any

from speechdlm_ext.asr.recognisers import RecogniserOptions, describe_recogniser
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.evaluation.corpus import Corpus, Dialogue
from speechdlm_ext.evaluation.measure_dialogue import (
    NOBODY,
    Measurement,
    measure_sound,
    measure_without_sound,
    measure_words,
)
from speechdlm_ext.evaluation.speech_activity import Detection
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.vad import Annotation, Detector

_APART = 0.5  # seconds by which sound may differ in length from its units or the speech that is given
_AHEAD = 4  # dialogues that wait for each process
FORMAT = 4  # counted up when the same dialogue would be measured otherwise


@dataclass(frozen=True)
class Job:
    """A dialogue to be measured in another process.

    ``given``: speech that is known beforehand. ``known``: what was measured before, so that only words are wanted.
    """

    key: str
    dialogue: Dialogue
    detector: Detector
    recogniser: RecogniserOptions
    given: Annotation | None
    known: Measurement | None = None


def measure_corpora(
    corpora: Mapping[str, Corpus],
    detection: Detection,
    journal: ResumeLog,
    recogniser: RecogniserOptions = NOBODY,
    jobs: int = 1,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> dict[str, dict[str, Measurement]]:
    """Measure all dialogues; what cannot be measured is named in ``left_out`` of its corpus.

    Args:
        corpora: by name.
        detection: how speech is found.
        journal: where measurements of sound are kept, and taken from if the files are as they were.
        recogniser: who listens; words of another one, or of one whose files were others then, are not taken.
        jobs: processes.
        progress: wraps the measurements still to make; its second argument is their number.

    Returns:
        For each corpus its measurements by dialogue.
    """
    results: dict[str, dict[str, Measurement]] = {side: {} for side in corpora}
    waiting: list[Job] = []
    stamps: dict[str, Any] = {}
    owners: dict[str, tuple[str, str]] = {}
    listener = describe_recogniser(recogniser)
    detector = detection.detector
    for side, corpus in corpora.items():
        for dialogue in corpus.dialogues:
            given = detection.given.get((side, dialogue.name))
            if detector.reads != "audio" and given is None:
                corpus.left_out.append((dialogue.name, f"no speech is given for it ({detector.name})"))
            elif given is not None and not dialogue.files:
                results[side][dialogue.name] = measure_without_sound(dialogue, given)
            else:
                key = _printable(f"{side}/{dialogue.name}")
                owners[key] = side, dialogue.name
                stamps[key] = _stamp(dialogue, given)
                known, whole = _known(journal.entries.get(key, {}), stamps[key], listener)
                if known and whole:
                    results[side][dialogue.name] = known
                else:
                    job = Job(key, replace(dialogue, units=()), detector, recogniser, given, known)
                    waiting.append(job)
    for key, found in progress(_run(waiting, jobs), len(waiting)):
        side, name = owners[key]
        if isinstance(found, str):
            corpora[side].left_out.append((name, found))
        else:
            journal.add(key, {"source": stamps[key], "listener": listener, "measurement": asdict(found)})
            results[side][name] = found
    return results


def check_lengths(side: str, corpus: Corpus, found: dict[str, Measurement], detection: Detection) -> None:
    """Name in ``left_out`` what is not as long as the sound that it goes with.

    Units of another length are of something else, and are left out, as is all of a dialogue whose speech they told; of
    speech that was given, what is beyond the end.
    """
    for place, dialogue in enumerate(corpus.dialogues):
        if not dialogue.files or dialogue.name not in found:
            continue
        seconds = found[dialogue.name].duration
        by_units = detection.detector.reads == "units"
        given = detection.given.get((side, dialogue.name), Annotation([]))
        last = max((end for channel in given.speech for _, end in channel), default=0.0)
        if last > seconds + _APART and not by_units:
            why = f"speech is given until {last:.2f} s, beyond the end of its sound, {seconds:.2f} s, where it is cut"
            corpus.left_out.append((dialogue.name, why))
        if dialogue.units and abs(len(dialogue.units[0]) / dialogue.frame_rate - seconds) > _APART:
            own = len(dialogue.units[0]) / dialogue.frame_rate
            corpus.left_out.append((dialogue.name, f"units of {own:.2f} s go with {seconds:.2f} s of sound"))
            corpus.dialogues[place] = replace(dialogue, units=())
            if by_units:
                del found[dialogue.name]


def _known(entry: Mapping[str, Any], source: Any, listener: Any) -> tuple[Measurement | None, bool]:
    """What the journal has of a dialogue whose files are as they were, and whether its words are those wanted."""
    if entry.get("source") != source:
        return None, False
    measurement = Measurement(**entry["measurement"])
    if listener is None:
        return replace(measurement, words=[]), True
    return measurement, entry["listener"] == listener


def _stamp(dialogue: Dialogue, given: Annotation | None) -> list[Any]:
    """What tells whether a dialogue is still the one that was measured."""
    stamps: list[Any] = []
    for path in dialogue.files:
        try:
            status = os.stat(path)
            stamps.append([_printable(os.path.abspath(path)), status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append([_printable(os.path.abspath(path))])
    if given is not None:
        speech = [[list(part) for part in channel] for channel in given.speech]
        stamps += [speech, list(given.speakers), given.by_channel]
    return stamps


def _printable(name: str) -> str:
    """Names of files may hold bytes that are no characters, which cannot be written."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _run(waiting: list[Job], jobs: int) -> Iterator[tuple[str, Measurement | str]]:
    """(key, measurement or what is wrong) of each, as they are done."""
    if min(jobs, len(waiting)) <= 1:
        yield from map(_measure, waiting)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__, "torch", "scipy.signal"])
    with ProcessPoolExecutor(min(jobs, len(waiting)), context, _prepare_worker) as pool:
        pending: set[Future[tuple[str, Measurement | str]]] = set()
        upcoming = iter(waiting)
        try:
            for job in upcoming:
                pending.add(pool.submit(_measure, job))
                if len(pending) >= _AHEAD * jobs:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise InputError(
                "a process was killed, perhaps for want of memory: start again with fewer --jobs; what is done is kept"
            ) from None
        finally:
            for future in pending:
                future.cancel()


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import torch

    torch.set_num_threads(1)  # one process a dialogue already uses the cores


def _measure(job: Job) -> tuple[str, Measurement | str]:
    try:
        if job.known:
            return job.key, measure_words(job.dialogue, job.known, job.recogniser)
        return job.key, measure_sound(job.dialogue, job.detector, job.recogniser, job.given)
    except InputError as error:
        return job.key, one_line(error)
