"""One dialogue measured: its length, when somebody speaks, how it sounds, and what is understood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.ctc import SAMPLE_RATE as HEARD_RATE
from speechdlm_ext.asr.recognisers import RecogniserOptions, build_recogniser, transcribe_stretches
from speechdlm_ext.evaluation.corpus import Dialogue
from speechdlm_ext.evaluation.speech_activity import order_by_channel
from speechdlm_ext.io.audio import audio_info, resample
from speechdlm_ext.io.recordings import recording_blocks
from speechdlm_ext.metrics.intervals import crop_intervals, join_intervals, shift_intervals
from speechdlm_ext.metrics.signal import SoundMeter
from speechdlm_ext.vad import Annotation, Detector, Speech

if TYPE_CHECKING:
    import torch

NOBODY = RecogniserOptions()
_LONGEST = 300.0  # seconds that are held at once


@dataclass
class Measurement:
    """What is known about a dialogue.

    Attributes:
        duration: seconds.
        activity: speech of each channel, (start, end) in seconds.
        sound: figures of each channel, see ``SoundMeter``; empty without sound.
        words: what was understood on each channel, ``{"start", "end", "text"}``; empty without a recogniser.
        speakers: labels of the channels, where they are known.
    """

    duration: float
    activity: Speech
    sound: list[dict[str, Any]] = field(default_factory=list)
    words: list[list[dict[str, Any]]] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)


def measure_sound(
    dialogue: Dialogue, detector: Detector, recogniser: RecogniserOptions = NOBODY, given: Annotation | None = None
) -> Measurement:
    """Measure the sound of a dialogue piece by piece.

    Args:
        dialogue: with files.
        detector: of speech, unless that is ``given``.
        recogniser: who listens, too.
        given: speech of each channel, or of each speaker.

    Raises:
        InputError: a file cannot be read, the channels are not equally long, or they do not tell speakers apart.
    """
    given = order_by_channel(dialogue, given) if given is not None else None
    meter: SoundMeter | None = None
    speech: Speech = []
    seconds = 0.0
    for start, wave, rate in _pieces(dialogue):
        seconds = start + wave.shape[1] / rate
        if meter is None:
            meter, speech = SoundMeter(rate, len(wave)), [[] for _ in wave]
        here = detector.detect(wave, rate) if given is None else _part(given.speech, len(wave), start, seconds)
        meter.add(wave, here)
        for number, stretches in enumerate(here):
            speech[number] += shift_intervals(stretches, start)
    if given is not None:  # somebody who says nothing is not in an RTTM file
        speech = given.speech + [[] for _ in range(len(speech) - len(given.speech))]
    rounded = [[(round(a, 4), round(b, 4)) for a, b in join_intervals(channel)] for channel in speech]
    speakers = list(given.speakers) if given is not None else []
    found = Measurement(seconds, rounded, meter.figures() if meter else [], speakers=speakers)
    return measure_words(dialogue, found, recogniser) if recogniser.spec else found


def measure_words(dialogue: Dialogue, known: Measurement, recogniser: RecogniserOptions) -> Measurement:
    """What is known about a dialogue, and the words that are understood where there is speech.

    Raises:
        InputError: as :func:`measure_sound` and :func:`build_recogniser`.
    """
    import torch

    words: list[list[dict[str, Any]]] = []
    for start, wave, rate in _pieces(dialogue):
        words = words or [[] for _ in wave]
        heard = resample(torch.from_numpy(np.ascontiguousarray(wave)), rate, HEARD_RATE).numpy()
        for number, stretches in enumerate(_part(known.activity, len(wave), start, start + wave.shape[1] / rate)):
            for part in transcribe_stretches(build_recogniser(recogniser), heard[number], stretches):
                times = {name: round(part[name] + start, 3) for name in ("start", "end")}
                words[number].append({**part, **times})
    return replace(known, words=words)


def _part(given: Speech, channels: int, start: float, end: float) -> Speech:
    """Speech between two times, on a clock that begins there, as speech of channels.

    Where there are more people than channels, everybody is heard on every channel.
    """
    given = given + [[] for _ in range(channels - len(given))]
    by_channel = given if len(given) == channels else [[part for own in given for part in own]] * channels
    return [shift_intervals(join_intervals(crop_intervals(own, start, end)), -start) for own in by_channel]


def dialogue_blocks(dialogue: Dialogue, sample_rate: int) -> Iterator[torch.Tensor]:
    """The sound of a dialogue in blocks (C, n) at ``sample_rate`` Hz; see :func:`recording_blocks`."""
    files = list(dialogue.files)
    return recording_blocks({"audio_filepath": files if len(files) > 1 else files[0]}, sample_rate)


def _pieces(dialogue: Dialogue) -> Iterator[tuple[float, NDArray[np.float32], int]]:
    """(start in seconds, samples (C, n), Hz) of parts of bounded length."""
    rate = max(audio_info(path).sample_rate for path in dialogue.files)
    held: list[NDArray[np.float32]] = []
    start = 0
    for block in dialogue_blocks(dialogue, rate):
        held.append(block.numpy())
        samples = sum(part.shape[1] for part in held)
        if samples >= _LONGEST * rate:
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
