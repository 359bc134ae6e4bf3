"""Every dialogue measured once, on all cores, and kept, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.audio import audio_info, resample
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.evaluation.corpus import Corpus, Dialogue
from speechdlm_ext.evaluation.detection import Detection, Speech
from speechdlm_ext.journal import Journal
from speechdlm_ext.metrics.intervals import crop_intervals, join_intervals, shift_intervals
from speechdlm_ext.metrics.recognisers import SAMPLE_RATE as HEARD_RATE
from speechdlm_ext.metrics.recognisers import build_recogniser, transcribe_stretches
from speechdlm_ext.metrics.sound import SoundMeter
from speechdlm_ext.units.recordings import recording_blocks

if TYPE_CHECKING:
    import torch

_LONGEST = 300.0  # seconds that are held at once
_AHEAD = 4  # dialogues that wait for each process
FORMAT = 1  # counted up when the same dialogue would be measured otherwise


@dataclass
class Measurement:
    """What is known about a dialogue.

    Attributes:
        duration: seconds.
        activity: speech of each channel, (start, end) in seconds.
        sound: figures of each channel, see ``SoundMeter``; empty without sound.
        words: what was understood on each channel, ``{"start", "end", "text"}``; empty without a recogniser.
    """

    duration: float
    activity: Speech
    sound: list[dict[str, Any]] = field(default_factory=list)
    words: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """A dialogue to be measured in another process."""

    key: str
    dialogue: Dialogue
    detection: Detection
    recogniser: str
    given: Speech | None


def measure_sound(
    dialogue: Dialogue, detection: Detection, recogniser: str = "", given: Speech | None = None
) -> Measurement:
    """Measure the sound of a dialogue piece by piece.

    Args:
        dialogue: with files.
        detection: that listens, unless speech is ``given``.
        recogniser: as :func:`build_recogniser` takes it; empty for none.
        given: speech of each person; of channels, if there are as many.

    Raises:
        InputError: a file cannot be read, or the channels are not equally long.
    """
    rate = max(audio_info(path).sample_rate for path in dialogue.files)
    meter: SoundMeter | None = None
    speech: Speech = []
    words: list[list[dict[str, Any]]] = []
    seconds = 0.0
    for wave in _pieces(dialogue_blocks(dialogue, rate), round(_LONGEST * rate)):
        length = wave.shape[1] / rate
        if meter is None:
            meter, speech, words = SoundMeter(rate, len(wave)), [[] for _ in wave], [[] for _ in wave]
        if given is None:
            here = detection.listen(wave, rate)
        else:
            here = [
                shift_intervals(join_intervals(crop_intervals(channel, seconds, seconds + length)), -seconds)
                for channel in _by_sound_channel(given, len(wave))
            ]
        meter.add(wave, here)
        for number, stretches in enumerate(here):
            speech[number] += shift_intervals(stretches, seconds)
            if recogniser:
                words[number] += _hear(recogniser, wave[number], rate, stretches, seconds)
        seconds += length
    if given is not None:  # somebody who says nothing is not in an RTTM file
        speech = given + [[] for _ in range(len(speech) - len(given))]
    rounded = [[(round(a, 4), round(b, 4)) for a, b in join_intervals(channel)] for channel in speech]
    return Measurement(seconds, rounded, meter.figures() if meter else [], words if recogniser else [])


def dialogue_blocks(dialogue: Dialogue, sample_rate: int) -> Iterator[torch.Tensor]:
    """The sound of a dialogue in blocks (C, n) at ``sample_rate`` Hz; see :func:`recording_blocks`."""
    files = list(dialogue.files)
    return recording_blocks({"audio_filepath": files if len(files) > 1 else files[0]}, sample_rate)


def _by_sound_channel(given: Speech, channels: int) -> Speech:
    """Speech of people as speech of channels: where there are more people, everybody is heard on every channel."""
    given = given + [[] for _ in range(channels - len(given))]
    return given if len(given) == channels else [[part for own in given for part in own]] * channels


def _pieces(blocks: Iterable[Any], most: int) -> Iterator[NDArray[np.float32]]:
    held: list[NDArray[np.float32]] = []
    for block in blocks:
        held.append(block.numpy())
        if sum(part.shape[1] for part in held) >= most:
            yield np.concatenate(held, axis=1)
            held = []
    if held:
        yield np.concatenate(held, axis=1)


def _hear(
    recogniser: str, wave: NDArray[np.float32], rate: int, stretches: list[tuple[float, float]], origin: float
) -> list[dict[str, Any]]:
    import torch

    heard = resample(torch.from_numpy(np.ascontiguousarray(wave))[None], rate, HEARD_RATE)[0].numpy()
    said = transcribe_stretches(build_recogniser(recogniser), heard, stretches)
    return [{**part, "start": round(part["start"] + origin, 3), "end": round(part["end"] + origin, 3)} for part in said]


def measure_without_sound(dialogue: Dialogue, detection: Detection, given: Speech | None) -> Measurement:
    """Measure a dialogue of units, or of RTTM alone, which lasts until its last speech ends."""
    if dialogue.units:
        duration = len(dialogue.units[0]) / dialogue.frame_rate
        return Measurement(duration, detection.read_units(dialogue) if given is None else given)
    speech = given or []
    return Measurement(max((end for channel in speech for _, end in channel), default=0.0), speech)


def measure_corpora(
    corpora: Mapping[str, Corpus],
    detection: Detection,
    journal: Journal,
    recogniser: str = "",
    jobs: int = 1,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> dict[str, dict[str, Measurement]]:
    """Measure all dialogues; what cannot be measured is named in ``left_out`` of its corpus.

    Args:
        corpora: by name.
        detection: how speech is found.
        journal: where measurements of sound are kept, and taken from if the files are as they were.
        recogniser: as ``--asr`` names it; empty for none.
        jobs: processes.
        progress: wraps the measurements still to make; its second argument is their number.

    Returns:
        For each corpus its measurements by dialogue.
    """
    results: dict[str, dict[str, Measurement]] = {side: {} for side in corpora}
    waiting: list[Job] = []
    stamps: dict[str, Any] = {}
    owners: dict[str, tuple[str, str]] = {}
    for side, corpus in corpora.items():
        for dialogue in corpus.dialogues:
            given = detection.given.get((side, dialogue.name))
            if detection.given and given is None:
                corpus.left_out.append((dialogue.name, f"no speech is given for it ({detection.method})"))
            elif not dialogue.files:
                results[side][dialogue.name] = measure_without_sound(dialogue, detection, given)
            else:
                key = _printable(f"{side}/{dialogue.name}")
                owners[key] = side, dialogue.name
                stamps[key] = _stamp(dialogue, given)
                if journal.entries.get(key, {}).get("source") == stamps[key]:
                    results[side][dialogue.name] = Measurement(**journal.entries[key]["measurement"])
                else:
                    waiting.append(Job(key, dialogue, Detection(detection.method, options=detection.options),
                                       recogniser, given))  # fmt: skip
    for key, found in progress(_run(waiting, jobs), len(waiting)):
        side, name = owners[key]
        if isinstance(found, str):
            corpora[side].left_out.append((name, found))
        else:
            journal.add(key, {"source": stamps[key], "measurement": found})
            results[side][name] = Measurement(**found)
    return results


def _stamp(dialogue: Dialogue, given: Speech | None) -> list[Any]:
    """What tells whether a dialogue is still the one that was measured."""
    stamps: list[Any] = []
    for path in dialogue.files:
        try:
            status = os.stat(path)
            stamps.append([_printable(os.path.abspath(path)), status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append([_printable(os.path.abspath(path))])
    return [*stamps, [[list(part) for part in channel] for channel in given]] if given is not None else stamps


def _printable(name: str) -> str:
    """Names of files may hold bytes that are no characters, which cannot be written."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _run(waiting: list[Job], jobs: int) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(key, measurement or what is wrong) of each, as they are done."""
    if min(jobs, len(waiting)) <= 1:
        yield from map(_measure, waiting)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__, "torch", "scipy.signal"])
    with ProcessPoolExecutor(min(jobs, len(waiting)), context, _prepare_worker) as pool:
        pending: set[Future[tuple[str, dict[str, Any] | str]]] = set()
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


def _measure(job: Job) -> tuple[str, dict[str, Any] | str]:
    try:
        found = measure_sound(job.dialogue, job.detection, job.recogniser, job.given)
    except InputError as error:
        return job.key, one_line(error)
    return job.key, {name: getattr(found, name) for name in ("duration", "activity", "sound", "words")}
