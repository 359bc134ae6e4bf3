"""What the demo of duplex models compares with: a cascade, a SpeechDLM of the same dialogues, and the script itself.

Everything is measured from the sound, in the same way for all: the agent's turns by a speech detector, and its words
by the answer of the script whose units are nearest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.asr import Recogniser, build_recogniser
from speechdlm_ext.codecs import build_codec
from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.data.duplex_cuts import DuplexCut, read_cuts, read_sound
from speechdlm_ext.data.text_channel import Turn
from speechdlm_ext.errors import run_command
from speechdlm_ext.evaluation.duplex import Conversation, figures
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.audio import read_audio, write_audio
from speechdlm_ext.io.manifest import read_jsonl, write_jsonl
from speechdlm_ext.metrics.intervals import bridge_silences
from speechdlm_ext.synthetic.requests import SCRIPT, script_answers
from speechdlm_ext.units.files import parse_units
from speechdlm_ext.vad import build_detector

RATE = 16000
PATIENCE = 0.24  # s of silence after which the cascade takes the user's turn as ended
ONSET = 0.1  # s of the user's speech after which it gives way
_MARGIN = 0.1  # s around a word that the recogniser gets
_PAUSE = 0.2  # s: a longer silence parts two turns of the agent; the script leaves 0.3 s after an interruption
_LIKE = 0.5  # edits per unit, above which a turn has none of the script's answers


def write_words(manifest: Path, folder: Path, valid: float = 0.05) -> None:
    """What users say, word by word, as ``train.jsonl`` and ``valid.jsonl`` of the task ``speech_recognition``."""
    rows = [
        {
            "audio_filepath": row["audio_filepath"],
            "channel": 0,
            "offset": max(0.0, turn["start"] - _MARGIN),
            "duration": turn["duration"] + 2 * _MARGIN,
            "text": turn["text"],
        }
        for row in read_jsonl(manifest)
        for turn in row["supervisions"]
        if turn["speaker"] == "user" and turn["start"] + turn["duration"] + _MARGIN < row["duration"]
    ]
    held = max(1, round(valid * len(rows)))
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", rows[held:])
    write_jsonl(folder / "valid.jsonl", rows[:held])


def run_cascade(
    cuts: Sequence[DuplexCut],
    recogniser: Recogniser,
    codec: Codec,
    folder: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Let a cascade converse: detector, recogniser, the script's answer, units, sound.

    It knows of the user's end :data:`PATIENCE` seconds later, and answers when the recogniser is done, by the clock; it
    ends :data:`ONSET` seconds after the user begins again. The detector's threshold is that of the whole recording.
    """
    detector = build_detector("energy")
    answers = {word: codec.decode(codec.encode(wave[None]))[0] for word, wave in _answers().items()}
    for cut in cuts:
        user = read_sound(cut.source, RATE)
        said = torch.zeros(len(user))
        (spans,) = detector.detect(user[None].numpy(), RATE)
        for (start, end), following in zip(spans, [*spans[1:], (cut.duration, cut.duration)], strict=True):
            begun = clock()
            word = user[max(0, round((start - _MARGIN) * RATE)) : round((end + _MARGIN) * RATE)]
            text = recogniser.recognise(word.numpy()).text
            answer = answers[min(SCRIPT, key=lambda known: edits(list(known), list(text)))]
            first = round((end + PATIENCE + clock() - begun) * RATE)
            last = min(first + len(answer), round((following[0] + ONSET) * RATE), len(user))
            if first < last:
                said[first:last] = answer[: last - first]
        _write(folder, cut, user, said)


def vocode_answers(cuts: Sequence[DuplexCut], samples: Path, codec: Codec, folder: Path) -> None:
    """The sound of channel B of a unit file of :mod:`scripts.sample_speech_dlm`, beside the user's."""
    units = {row["audio"]: parse_units(row["unitB"]) for row in read_jsonl(samples)}
    for cut in cuts:
        user = read_sound(cut.source, RATE)
        said = codec.decode(torch.tensor(units[cut.id])[None, None])[0][: len(user)]
        _write(folder, cut, user, torch.nn.functional.pad(said, (0, len(user) - len(said))))


def _write(folder: Path, cut: DuplexCut, user: Tensor, said: Tensor) -> None:
    write_audio(folder / cut.id / "input.wav", user, RATE)
    write_audio(folder / cut.id / "output.wav", said, RATE)


def measure(cuts: Sequence[DuplexCut], codec: Codec, folder: Path | None) -> dict[str, Any]:
    """The figures of ``FOLDER/<id>/output.wav``, or without a folder those of the recordings' own agent."""
    detector = build_detector("energy")
    answers = {SCRIPT[word]: _runs(codec, wave) for word, wave in _answers().items()}
    talks = []
    for cut in cuts:
        if folder is None:
            assert cut.target is not None
            sound = read_sound(cut.target, RATE)
        else:
            sound = read_audio(folder / cut.id / "output.wav", RATE)[0][0]
        agent = []
        for start, end in bridge_silences(detector.detect(sound[None].numpy(), RATE)[0], _PAUSE):
            runs = _runs(codec, sound[round(start * RATE) : round(end * RATE)])
            scores = {text: edits(runs, answer, beginning=True) / max(1, len(runs)) for text, answer in answers.items()}
            nearest = min(scores, key=lambda text: scores[text])
            agent.append(Turn(start, end - start, nearest if scores[nearest] <= _LIKE else "", "agent"))
        user, expected = ([turn for turn in cut.turns if turn.speaker == who] for who in ("user", "agent"))
        talks.append(Conversation(cut.id, cut.duration, user, expected, agent))
    return figures(talks)


def _answers() -> Mapping[str, Tensor]:
    """The script's answers as they are spoken, by the word that asks for them."""
    return {word: torch.from_numpy(clip.wave) for word, clip in script_answers().items()}


def _runs(codec: Codec, wave: Tensor) -> list[int]:
    """The units of a sound, each run of equal ones once."""
    return codec.encode(wave[None])[0, 0].unique_consecutive().tolist() if len(wave) else []


def edits(found: Sequence[Any], expected: Sequence[Any], beginning: bool = False) -> int:
    """Edits between two sequences, or with ``beginning`` between the first and the nearest beginning of the other."""
    known, places = np.asarray(expected), np.arange(len(expected) + 1)
    row = places.copy()
    for item in found:
        new = np.concatenate(([row[0] + 1], np.minimum(row[1:] + 1, row[:-1] + (known != item))))
        row = np.minimum.accumulate(new - places) + places
    return int(row.min() if beginning else row[-1])


def main() -> None:
    """Run one of the demo's steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    words = steps.add_parser("words", help="what users say, to train a recogniser on")
    cascade = steps.add_parser("cascade", help="a cascade's answers")
    vocode = steps.add_parser("vocode", help="the sound of a SpeechDLM's answers")
    compare = steps.add_parser("compare", help="figures of several systems' sound")
    for step in (words, cascade, vocode, compare):
        step.add_argument("manifest", type=Path, help="of make_requests.py")
        step.add_argument("output", type=Path, help="folder, or file of figures")
    for step in (cascade, vocode, compare):
        step.add_argument("--codec", required=True, metavar="KIND:MODEL", help="of the agent's sound")
    cascade.add_argument("--asr", required=True, metavar="KIND:MODEL", help="recogniser of the user's words")
    vocode.add_argument("--samples", type=Path, required=True, help="unit file of sample_speech_dlm.py")
    compare.add_argument("--systems", nargs="+", metavar="NAME=FOLDER", required=True, help="with <id>/output.wav")
    options = parser.parse_args()
    if options.step == "words":
        write_words(options.manifest, options.output)
        return
    cuts, codec = read_cuts(options.manifest), build_codec(options.codec)
    if options.step == "cascade":
        run_cascade(cuts, build_recogniser(options.asr), codec, options.output)
    elif options.step == "vocode":
        vocode_answers(cuts, options.samples, codec, options.output)
    else:
        found = {"the script": measure(cuts, codec, None)}
        found |= {name: measure(cuts, codec, Path(folder)) for name, folder in _named(options.systems)}
        with atomic_write(options.output) as file:
            json.dump(found, file, indent=2)


def _named(systems: Sequence[str]) -> Iterator[tuple[str, str]]:
    for system in systems:
        name, _, folder = system.partition("=")
        yield name, folder


if __name__ == "__main__":
    run_command(main)
