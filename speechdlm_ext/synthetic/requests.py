"""Synthetic conversations by a script: a user says a word, an agent answers what the script has for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.io.manifest import write_jsonl
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Clip, energy_segments, make_clip
from speechdlm_ext.synthetic.espeak import VOICES, EspeakSource, Voice

# What the agent answers to each word.
SCRIPT = {
    "one": "one, that is the first number and a good start",
    "two": "two people are waiting for you in the garden",
    "three": "three trains go to the station this morning",
    "four": "you have four new letters from your sister",
    "five": "five is more than enough for a big family",
    "six": "the museum opens at six, please come in time",
    "seven": "seven bridges lead over the river in this town",
    "eight": "my brother bought eight green bicycles last week",
    "nine": "nine months ago the office was a market",
    "ten": "ten minutes more and the kitchen is ready",
}
AGENT = "clara"


@dataclass(frozen=True)
class RequestOptions:
    """How conversations are made; times in seconds.

    Attributes:
        seconds: length of each.
        gap: from the end of the user's word to the agent's answer.
        stop: from the user's onset to the agent's end, where the user interrupts.
        interruptions: share of answers that are interrupted.
        interruption: when, in seconds after the answer's beginning.
        pause: from the end of an answer to the user's next word.
        noise: level of the user's channel, dB re full scale.
        held_out: use manners of speaking (rate, pitch) between those of the others.
        seed: of everything.
    """

    seconds: float = 10.0
    gap: float = 0.32
    stop: float = 0.4
    interruptions: float = 0.4
    interruption: tuple[float, float] = (0.8, 1.8)
    pause: tuple[float, float] = (0.5, 1.2)
    noise: float = -60.0
    held_out: bool = False
    seed: int = 1


def make_requests(folder: Path, count: int, options: RequestOptions) -> Path:
    """Write ``count`` conversations, stereo at 16 kHz with the user on the first channel, and their manifest.

    A row has ``supervisions`` (``start``, ``duration``, ``text``, ``speaker``); an interrupted answer also
    ``interrupted``, when the user began to speak.

    Returns:
        The manifest, ``manifest.jsonl``.

    Raises:
        InputError: espeakng-loader is not installed, or fewer than one conversation is asked for.
    """
    if count < 1 or not 5 <= options.seconds <= 600:
        raise InputError(f"{count} conversations of {options.seconds:g} s: expected 1 or more, of 5 to 600 s")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.jsonl"
    write_jsonl(manifest, _conversations(folder, count, options))
    return manifest


def script_answers(source: EspeakSource | None = None) -> dict[str, Clip]:
    """The agent's answers as they are spoken, by the word that asks for them."""
    source = source or EspeakSource()
    return {word: _clip(source, text, VOICES[AGENT]) for word, text in SCRIPT.items()}


def _conversations(folder: Path, count: int, options: RequestOptions) -> Iterator[dict[str, Any]]:
    import torch
    from tqdm import tqdm

    source = EspeakSource()
    answers = script_answers(source)
    words = {(word, voice): _clip(source, word, voice) for voice in _manners(options.held_out) for word in SCRIPT}
    voices = sorted({voice for _, voice in words}, key=lambda voice: (voice.name, voice.rate, voice.pitch))
    for number in tqdm(range(count), desc="conversations", unit="file"):
        rng = np.random.default_rng([options.seed, number])
        voice = voices[int(rng.integers(len(voices)))]
        wave, turns = _conversation({word: words[word, voice] for word in SCRIPT}, answers, options, rng)
        path = folder / f"request-{number:05d}.wav"
        write_audio(path, torch.from_numpy(wave), SAMPLE_RATE)
        yield {
            "id": path.stem,
            "audio_filepath": str(path.resolve()),
            "duration": wave.shape[1] / SAMPLE_RATE,
            "supervisions": turns,
        }


def _manners(held_out: bool) -> list[Voice]:
    """Manners of speaking: each voice but the agent's at several rates and pitches."""
    rates, pitches = ((168,), (38, 52)) if held_out else ((150, 180), (30, 45, 60))
    return [
        Voice(voice.name, rate, pitch, voice.range)
        for name, voice in VOICES.items()
        if name != AGENT
        for rate in rates
        for pitch in pitches
    ]


def _clip(source: EspeakSource, text: str, voice: Voice) -> Clip:
    wave = source.synthesize(text + ".", voice)
    return make_clip(wave, energy_segments(wave), text, "request")


def _conversation(
    words: dict[str, Clip], answers: dict[str, Clip], options: RequestOptions, rng: np.random.Generator
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    length = round(options.seconds * SAMPLE_RATE)
    wave = np.zeros((2, length), np.float32)
    turns: list[dict[str, Any]] = []
    names = list(words)

    def place(channel: int, start: float, clip: Clip, speaker: str) -> dict[str, Any]:
        first = round(start * SAMPLE_RATE)
        wave[channel, first : first + len(clip.wave)] += clip.wave[: length - first]
        duration = min(clip.duration, options.seconds - start)
        return {"start": round(start, 4), "duration": round(duration, 4), "text": clip.text, "speaker": speaker}

    time = float(rng.uniform(0.3, 1.0))
    while True:
        word = names[int(rng.integers(len(names)))]
        spoken = words[word]
        if time + spoken.duration + options.gap + 1 > options.seconds:
            break
        turns.append(place(0, time, spoken, "user"))
        start = time + spoken.duration + options.gap
        answer = answers[word]
        ends = start + answer.duration
        if rng.random() < options.interruptions:
            time = start + float(rng.uniform(*options.interruption))
            answer = answer.cut(min(time + options.stop - start, answer.duration))
            turn = place(1, start, answer, "agent") | {"interrupted": round(time, 4)}
        else:
            turn = place(1, start, answer, "agent")
            time = ends + float(rng.uniform(*options.pause))
        turns.append(turn)
    noise = 10 ** (options.noise / 20) * rng.standard_normal(length)
    wave[0] += noise.astype(np.float32)
    return wave, turns
