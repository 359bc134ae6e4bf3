"""Speech among noises, with a label for every frame: a small corpus on which detectors of speech are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.audio import read_audio, resample, write_audio
from speechdlm_ext.io.manifest import iter_jsonl, write_jsonl
from speechdlm_ext.metrics.intervals import intervals_to_frames
from speechdlm_ext.synthetic.acoustics import colour, room
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Segment, Wave, energy_segments, make_noise
from speechdlm_ext.synthetic.espeak import VOICES, EspeakSource, make_sentence
from speechdlm_ext.vad import build_detector

FRAME = 0.02  # seconds of a label
LABELS = ("0", "1")  # background, speech
_KINDS = ("statement", "question", "answer", "backchannel")


@dataclass(frozen=True)
class MixOptions:
    """Size and content of the corpus.

    Attributes:
        mixes: of training.
        valid_mixes: for validation, with speakers of their own, a fifth of those recorded.
        seconds: of each.
        recordings: manifest of clean speech (``audio_filepath``, ``speaker``), mixed in beside synthetic speech.
        vad: detector that says where recordings have speech, as ``silero``; empty: where they are loud.
        lowest_snr: dB of the speech over the noise; up to 40.
        seed: of everything that is sampled.
    """

    mixes: int = 400
    valid_mixes: int = 40
    seconds: float = 6.0
    recordings: Path | None = None
    vad: str = ""
    lowest_snr: float = 0.0
    seed: int = 1


def make_mixes(folder: Path, options: MixOptions, progress: Callable[[Any], Any] = iter) -> dict[str, int]:
    """Write ``audio/``, ``train.json`` and ``valid.json`` with a label every 20 ms, and ``labels.txt``.

    Returns:
        Number of mixes of each manifest.

    Raises:
        InputError: an option is invalid, or a recording cannot be read.
    """
    if options.mixes < 1 or options.valid_mixes < 1 or not 1 <= options.seconds <= 60:
        raise InputError("--mixes, --valid-mixes: 1 or more; --seconds: 1 to 60 is expected")
    source, names = EspeakSource(), list(VOICES)
    detector = build_detector(options.vad) if options.vad else None
    recorded: dict[str, list[tuple[Wave, list[Segment]]]] = {}
    for line in iter_jsonl(options.recordings) if options.recordings else ():
        found, rate = read_audio(line.row["audio_filepath"])
        clips = recorded.setdefault(str(line.row.get("speaker", "")), [])
        wave = resample(found.mean(0), rate, SAMPLE_RATE).numpy()
        clips.append((wave, list(detector.detect(wave[None], SAMPLE_RATE)[0]) if detector else _loud(wave)))
    people = sorted(recorded)
    held_out = -(-len(people) // 5)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    plans = [("train", n) for n in range(options.mixes)] + [("valid", n) for n in range(options.valid_mixes)]
    for split, number in progress(plans):
        rng = np.random.default_rng(np.random.SeedSequence((options.seed, split == "valid", number)))
        chosen = people[held_out:] if split == "train" else people[:held_out]
        waves = []
        for _ in range(int(rng.integers(1, 4))):
            if chosen and rng.random() < 0.8:
                clips = recorded[chosen[int(rng.integers(len(chosen)))]]
                waves.append(clips[int(rng.integers(len(clips)))])
            else:
                voice = VOICES[names[int(rng.integers(1, len(names))) if split == "train" else 0]]
                sentence = make_sentence(_KINDS[int(rng.integers(len(_KINDS)))], rng)
                wave = source.synthesize(f"{sentence}.", voice)
                waves.append((wave, _loud(wave)))
        mixed, labels = mix(waves, rng, options)
        path = folder / "audio" / f"{split}-{number:05d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, torch.from_numpy(mixed), SAMPLE_RATE)
        label = " ".join(LABELS[int(value)] for value in labels)
        rows[split].append(
            {"audio_filepath": str(path.absolute()), "duration": len(mixed) / SAMPLE_RATE, "label": label}
        )
    for split, made in rows.items():
        write_jsonl(folder / f"{split}.json", made)
    with atomic_write(folder / "labels.txt") as file:
        file.writelines(f"{label}\n" for label in LABELS)
    return {split: len(made) for split, made in rows.items()}


def _loud(wave: Wave) -> list[Segment]:
    return energy_segments(wave, depth=38.0, bridge=0.15)


def mix(
    speech: Sequence[tuple[Wave, list[Segment]]], rng: np.random.Generator, options: MixOptions
) -> tuple[Wave, np.ndarray]:
    """Place parts of recordings within noise, each at its own level and place, given where in them the speech is.

    Returns:
        Samples (N,) of ``options.seconds``, and whether each frame of 20 ms has speech.
    """
    total, frames = round(options.seconds * SAMPLE_RATE), round(options.seconds / FRAME)
    clean, labels = np.zeros(total, np.float32), np.zeros(frames, bool)
    level = float(rng.uniform(-55, -15))
    for wave, segments in speech:
        longest = min(len(wave), round(total * float(rng.uniform(0.1, 0.95)) / len(speech) ** 0.5))
        first = int(rng.integers(0, len(wave) - longest + 1))
        place = int(rng.integers(0, total - longest + 1))
        clip = np.zeros(total, np.float32)
        clip[place : place + longest] = wave[first : first + longest]
        shift, start, end = (n / SAMPLE_RATE for n in (place - first, place, place + longest))
        moved = [(max(a + shift, start), min(b + shift, end)) for a, b in segments]
        speaks = intervals_to_frames([(a, b) for a, b in moved if a < b], frames, FRAME)
        inside = np.repeat(speaks, round(FRAME * SAMPLE_RATE))[:total]
        power = float(np.mean(clip[: len(inside)][inside] ** 2)) if speaks.any() else 1e-4
        if rng.random() < 0.5:
            clip = room(clip, rng)
        own = level - float(rng.uniform(0, 10))
        clean += colour(clip, rng) * np.float32(10 ** (own / 20) / np.sqrt(max(power, 1e-12)))
        labels |= speaks
    noise = np.zeros(total, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        noise += _noise(total, rng)
    snr = float(rng.uniform(options.lowest_snr, 40))
    noise *= np.float32(10 ** ((level - snr) / 20) / max(float(np.sqrt(np.mean(noise**2))), 1e-9))
    mixed = clean + noise
    if rng.random() < 0.3:
        mixed = resample(resample(torch.from_numpy(mixed), SAMPLE_RATE, 8000), 8000, SAMPLE_RATE).numpy()
    return mixed * np.float32(min(1.0, 0.95 / max(float(np.abs(mixed).max()), 1e-9))), labels


def _noise(total: int, rng: np.random.Generator) -> Wave:
    """One of: steady noise, noise that swells, hum, chords, clicks and taps, breaths and rustling; of RMS near 1."""
    kind, time = int(rng.integers(6)), np.arange(total) / SAMPLE_RATE
    noise: Any = make_noise(total, 0.0, float(rng.uniform(0, 0.98)), rng)
    if kind == 1:
        swell = np.sin(2 * np.pi * rng.uniform(0.1, 3) * time + rng.uniform(0, 6)) + rng.uniform(0.5, 1.5)
        noise = noise * swell.clip(0)
    elif kind == 2:
        pitch = rng.uniform(45, 400)
        noise = np.sum([rng.uniform(0.1, 1) / n * np.sin(2 * np.pi * n * pitch * time) for n in range(1, 9)], axis=0)
    elif kind == 3:
        noise = np.zeros(total)
        for start in range(0, total, round(rng.uniform(0.15, 0.8) * SAMPLE_RATE)):
            part = time[: total - start][: round(0.8 * SAMPLE_RATE)]
            for pitch in 110 * 2 ** (rng.integers(0, 36, 3) / 12):
                noise[start : start + len(part)] += np.exp(-3 * part) * np.sin(2 * np.pi * pitch * part)
    elif kind == 4:
        taps = np.zeros(total)
        taps[rng.integers(0, total, int(rng.integers(3, 40)))] = rng.uniform(0.3, 1)
        decay = np.exp(-np.arange(2000) / rng.uniform(20, 400)) * rng.standard_normal(2000)
        noise = np.convolve(taps, decay)[:total]
    elif kind == 5:
        envelope = np.full(total, 0.03)
        for _ in range(int(rng.integers(1, 8))):
            first, length = int(rng.integers(total)), round(rng.uniform(0.05, 0.9) * SAMPLE_RATE)
            envelope[first : first + length] += (rng.uniform(0.2, 1) * np.hanning(length))[: total - first]
        noise = colour(np.asarray(noise * envelope, np.float32), rng)
    made: Wave = np.asarray(noise / max(float(np.sqrt(np.mean(noise**2))), 1e-9), np.float32)
    return made
