"""Dialogues measured once, in processes, and kept: duration, speech activity, audio signal and words of each.

A run that was stopped resumes; a dialogue whose files changed is measured again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr import RecogniserOptions, build_recogniser, describe_recogniser, transcribe_intervals
from speechdlm_ext.asr.base import SAMPLE_RATE as ASR_RATE
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.evaluation.corpus import Corpus, Dialogue, dialogue_blocks
from speechdlm_ext.evaluation.speech_activity import Detection, order_by_channel
from speechdlm_ext.io.audio import audio_info, resample
from speechdlm_ext.io.naming import storable
from speechdlm_ext.io.pool import run_in_processes
from speechdlm_ext.io.recordings import stamp
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.metrics.intervals import crop_intervals, join_intervals, shift_intervals
from speechdlm_ext.metrics.signal import SoundMeter
from speechdlm_ext.vad import Annotation, Detector, Speech

if TYPE_CHECKING:
    pass

FORMAT = 6  # increased when the same dialogue would be measured otherwise
NO_RECOGNISER = RecogniserOptions()
_CHUNK_SECONDS = 300.0  # held in memory at once
_TOLERANCE = 0.5  # seconds by which audio may differ in length from its units or the speech that is given


@dataclass
class Measurement:
    """What is known about a dialogue.

    Attributes:
        duration: seconds.
        activity: speech of each channel, (start, end) in seconds.
        sound: figures of each channel, see ``SoundMeter``; empty without audio.
        words: recognised on each channel, as :func:`speechdlm_ext.asr.transcribe_intervals` gives them; empty without a
            recogniser.
        speakers: labels of the channels, where they are known.
    """

    duration: float
    activity: Speech
    sound: list[dict[str, Any]] = field(default_factory=list)
    words: list[list[dict[str, Any]]] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)


def measure_sound(
    dialogue: Dialogue,
    detector: Detector,
    recogniser: RecogniserOptions = NO_RECOGNISER,
    given: Annotation | None = None,
) -> Measurement:
    """Measure the audio of a dialogue chunk by chunk.

    Args:
        dialogue: with files.
        detector: of speech, unless that is ``given``.
        recogniser: of words.
        given: speech of each channel, or of each speaker.

    Raises:
        InputError: a file cannot be read, the channels are not equally long, or they do not tell speakers apart.
    """
    given = order_by_channel(dialogue, given) if given is not None else None
    meter: SoundMeter | None = None
    speech: Speech = []
    seconds = 0.0
    for start, wave, rate in _chunks(dialogue):
        seconds = start + wave.shape[1] / rate
        if meter is None:
            meter, speech = SoundMeter(rate, len(wave)), [[] for _ in wave]
        here = detector.detect(wave, rate) if given is None else _crop(given.speech, len(wave), start, seconds)
        meter.add(wave, here)
        for number, segments in enumerate(here):
            speech[number] += shift_intervals(segments, start)
    if given is not None:  # a speaker without speech is not in an RTTM file
        speech = given.speech + [[] for _ in range(len(speech) - len(given.speech))]
    rounded = [[(round(a, 4), round(b, 4)) for a, b in join_intervals(channel)] for channel in speech]
    speakers = list(given.speakers) if given is not None else []
    found = Measurement(seconds, rounded, meter.figures() if meter else [], speakers=speakers)
    return measure_words(dialogue, found, recogniser) if recogniser.spec else found


def measure_words(dialogue: Dialogue, known: Measurement, recogniser: RecogniserOptions) -> Measurement:
    """Add the words that are recognised where there is speech.

    Raises:
        InputError: as :func:`measure_sound` and :func:`build_recogniser`.
    """
    import torch

    words: list[list[dict[str, Any]]] = []
    for start, wave, rate in _chunks(dialogue):
        words = words or [[] for _ in wave]
        samples = resample(torch.from_numpy(np.ascontiguousarray(wave)), rate, ASR_RATE).numpy()
        for number, segments in enumerate(_crop(known.activity, len(wave), start, start + wave.shape[1] / rate)):
            for part in transcribe_intervals(build_recogniser(recogniser), samples[number], segments):
                part |= {name: round(part[name] + start, 3) for name in ("start", "end")}
                if "words" in part:
                    part["words"] = [[text, round(a + start, 3), round(b + start, 3)] for text, a, b in part["words"]]
                words[number].append(part)
    return replace(known, words=words)


def _crop(given: Speech, channels: int, start: float, end: float) -> Speech:
    """Speech between two times, on a clock that begins there, as speech of channels.

    Where there are more speakers than channels, everybody is on every channel.
    """
    given = given + [[] for _ in range(channels - len(given))]
    by_channel = given if len(given) == channels else [[part for own in given for part in own]] * channels
    return [shift_intervals(join_intervals(crop_intervals(own, start, end)), -start) for own in by_channel]


def _chunks(dialogue: Dialogue) -> Iterator[tuple[float, NDArray[np.float32], int]]:
    """(start in seconds, samples (C, n), Hz) of chunks of bounded length."""
    rate = max(audio_info(path).sample_rate for path in dialogue.files)
    held: list[NDArray[np.float32]] = []
    start = 0
    for block in dialogue_blocks(dialogue, rate):
        held.append(block.numpy())
        samples = sum(part.shape[1] for part in held)
        if samples >= _CHUNK_SECONDS * rate:
            yield start / rate, np.concatenate(held, axis=1), rate
            start, held = start + samples, []
    if held:
        yield start / rate, np.concatenate(held, axis=1), rate


def measure_without_sound(dialogue: Dialogue, given: Annotation) -> Measurement:
    """Measure a dialogue of units, or of RTTM alone, which lasts until its last speech ends."""
    duration = max((end for channel in given.speech for _, end in channel), default=0.0)
    if dialogue.units:
        duration = len(dialogue.units[0]) / dialogue.frame_rate
    return Measurement(duration, given.speech, speakers=list(given.speakers))


@dataclass(frozen=True)
class Job:
    """A dialogue to be measured in another process.

    ``given``: speech that is known beforehand. ``known``: what was measured before, so that only words are missing.
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
    log: ResumeLog,
    recogniser: RecogniserOptions = NO_RECOGNISER,
    num_workers: int = 1,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> dict[str, dict[str, Measurement]]:
    """Measure all dialogues; what cannot be measured is named in ``skipped`` of its corpus.

    Args:
        corpora: by name.
        detection: how speech is found.
        log: of measurements of audio; those of files that are as they were are taken from it.
        recogniser: of words; those of another one, or of one whose files changed, are not taken from the log.
        num_workers: processes.
        progress: wraps the measurements still to make; its second argument is their number.

    Returns:
        For each corpus its measurements by dialogue.
    """
    results: dict[str, dict[str, Measurement]] = {side: {} for side in corpora}
    jobs: list[Job] = []
    stamps: dict[str, Any] = {}
    owners: dict[str, tuple[str, str]] = {}
    state = describe_recogniser(recogniser)
    detector = detection.detector
    for side, corpus in corpora.items():
        for dialogue in corpus.dialogues:
            given = detection.given.get((side, dialogue.name))
            if detector.reads != "audio" and given is None:
                corpus.skipped.append((dialogue.name, f"no speech is given for it ({detector.name})"))
            elif given is not None and not dialogue.files:
                results[side][dialogue.name] = measure_without_sound(dialogue, given)
            else:
                key = storable(f"{side}/{dialogue.name}")
                owners[key] = side, dialogue.name
                stamps[key] = _stamp(dialogue, given)
                known, whole = _known(log.entries.get(key, {}), stamps[key], state)
                if known and whole:
                    results[side][dialogue.name] = known
                else:
                    job = Job(key, replace(dialogue, units=()), detector, recogniser, given, known)
                    jobs.append(job)
    for key, found in progress(run_in_processes(_measure, jobs, min(num_workers, len(jobs))), len(jobs)):
        side, name = owners[key]
        if isinstance(found, str):
            corpora[side].skipped.append((name, found))
        else:
            log.add(key, {"source": stamps[key], "recogniser": state, "measurement": asdict(found)})
            results[side][name] = found
    return results


def check_lengths(side: str, corpus: Corpus, found: dict[str, Measurement], detection: Detection) -> None:
    """Name in ``skipped`` what is not as long as the audio that it belongs to.

    Units of another length are of another recording and are dropped, as is the dialogue if they gave its speech; given
    speech is cut at the end of the audio.
    """
    for place, dialogue in enumerate(corpus.dialogues):
        if not dialogue.files or dialogue.name not in found:
            continue
        seconds = found[dialogue.name].duration
        by_units = detection.detector.reads == "units"
        given = detection.given.get((side, dialogue.name), Annotation([]))
        last = max((end for channel in given.speech for _, end in channel), default=0.0)
        if last > seconds + _TOLERANCE and not by_units:
            why = f"speech is given until {last:.2f} s, beyond the end of its audio, {seconds:.2f} s, where it is cut"
            corpus.skipped.append((dialogue.name, why))
        if dialogue.units and abs(len(dialogue.units[0]) / dialogue.frame_rate - seconds) > _TOLERANCE:
            own = len(dialogue.units[0]) / dialogue.frame_rate
            corpus.skipped.append((dialogue.name, f"units of {own:.2f} s, audio of {seconds:.2f} s"))
            corpus.dialogues[place] = replace(dialogue, units=())
            if by_units:
                del found[dialogue.name]


def _known(entry: Mapping[str, Any], source: Any, recogniser_state: Any) -> tuple[Measurement | None, bool]:
    """What the log has of a dialogue whose files are as they were, and whether nothing is missing."""
    if entry.get("source") != source:
        return None, False
    measurement = Measurement(**entry["measurement"])
    if recogniser_state is None:
        return replace(measurement, words=[]), True
    return measurement, entry["recogniser"] == recogniser_state


def _stamp(dialogue: Dialogue, given: Annotation | None) -> list[Any]:
    """What tells whether a dialogue is still the one that was measured."""
    stamps: list[Any] = [[storable(os.path.abspath(path)), *stamp(path)] for path in dialogue.files]
    if given is not None:
        speech = [[list(part) for part in channel] for channel in given.speech]
        stamps += [speech, list(given.speakers), given.by_channel]
    return stamps


def _measure(job: Job) -> tuple[str, Measurement | str]:
    try:
        if job.known:
            return job.key, measure_words(job.dialogue, job.known, job.recogniser)
        return job.key, measure_sound(job.dialogue, job.detector, job.recogniser, job.given)
    except InputError as error:
        return job.key, one_line(error)
