"""Strings of spoken digits, of many speakers: a small corpus on which recognisers and classifiers of words are trained.

Speakers are voices of espeak-ng, those of programs and recordings that are installed (:mod:`.speakers`) and, where
recordings of digit strings are given, people; some of each are held out. Recordings are cut at their silences into
digits, which training strings join anew. Pitch, formants and tempo of training strings are moved. On request some of
them are short sentences of espeak-ng's voices instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.audio import read_audio, resample, write_audio
from speechdlm_ext.io.manifest import iter_jsonl, write_jsonl
from speechdlm_ext.synthetic.acoustics import another_voice, colour, room
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Wave, energy_segments, make_noise
from speechdlm_ext.synthetic.espeak import EspeakSource, Voice, make_sentence
from speechdlm_ext.synthetic.speakers import WordSpeaker, installed, say_all

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Of espeak-ng: an accent and a variant make a speaker.
_ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-x-gbclan", "en-029",
)  # fmt: skip
_VARIANTS = (
    "m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f4", "Andy", "Denis", "Lee", "Mario", "Michael", "Reed", "adam",
    "antonio", "benjamin", "caleb", "ed", "ian", "john", "max", "pablo", "paul", "quincy", "robert", "sandro", "zac",
    "Annie", "Andrea", "anika", "linda", "steph",
)  # fmt: skip
_HELD_OUT_VARIANTS = ("m5", "m8", "f5", "belinda", "travis", "victor")  # synthetic speakers of valid.json

_HELD_OUT_SENTENCES = 5  # one of so many texts is never in training
_OTHERS_SHARE = 0.6  # of the synthetic strings: by the programs and recordings that are installed


@dataclass(frozen=True)
class DigitOptions:
    """Size and content of the corpus.

    Attributes:
        strings: of training.
        valid_strings: of held-out synthetic voices.
        recordings: manifest with ``audio_filepath``, ``text`` (digits) and ``speaker``.
        held_out: speakers of the recordings that are only tested.
        recorded_share: of the training strings that recorded digits make, where there are any.
        sentences: share of the training strings that are sentences, of a vocabulary of about 50 words.
        sample_rate: of the audio that is written, in Hz.
        seed: of everything that is sampled.
        voice: of espeak-ng, which then speaks all strings, at one level and nearly without noise.
        espeak_only: no other synthetic speakers than those of espeak-ng, whatever is installed.
    """

    strings: int = 1000
    valid_strings: int = 60
    recordings: Path | None = None
    held_out: tuple[str, ...] = ()
    recorded_share: float = 0.4
    sentences: float = 0.0
    sample_rate: int = SAMPLE_RATE
    seed: int = 1
    voice: str = ""
    espeak_only: bool = False


def make_digits(folder: Path, options: DigitOptions, progress: Callable[[Any], Any] = iter) -> dict[str, int]:
    """Write the corpus: audio, and manifests of strings (``text``) and of single digits (``label``).

    Args:
        folder: gets ``audio/``, ``train.json``, ``valid.json`` and, with recordings, ``test.json`` (strings as they
            were recorded), with sentences ``sentences.json`` (held-out voices and texts); ``labels/`` has the same of
            single digits, and ``labels.txt``.
        options: see :class:`DigitOptions`.
        progress: shown around words that programs synthesize, and around the strings.

    Returns:
        Number of rows of each manifest.

    Raises:
        InputError: an option is invalid, or a recording is not of digits.
    """
    shares = (options.recorded_share, options.sentences)
    if options.strings < 1 or options.valid_strings < 1 or not all(0 <= share <= 1 for share in shares):
        raise InputError("--strings, --valid-strings: 1 or more; --recorded-share, --sentences: 0 to 1 is expected")
    recorded = list(_recordings(options.recordings)) if options.recordings else []
    unknown = set(options.held_out) - {row["speaker"] for row in recorded}
    if unknown:
        raise InputError(f"--held-out {sorted(unknown)[0]}: {options.recordings} has no such speaker")
    people: dict[str, list[tuple[str, Wave]]] = {}
    for row in recorded:
        if row["speaker"] not in options.held_out:
            people.setdefault(row["speaker"], []).extend(row["cut"])
    plans = [_plan(options, "train", number, sorted(people)) for number in range(options.strings)]
    for split in ("valid", "sentences") if options.sentences else ("valid",):
        plans += [_plan(options, split, number, []) for number in range(options.valid_strings)]
    say_all(
        {(plan.speaker, digit, WORDS[digit], plan.rendition): None
         for plan in plans if isinstance(plan.speaker, WordSpeaker) for digit in plan.digits},
        progress,
    )  # fmt: skip
    source = EspeakSource(2)
    rows: dict[str, list[dict[str, Any]]] = {}
    for plan in progress(plans):
        if plan.sentence:
            assert isinstance(plan.speaker, Voice)
            pairs = [(plan.sentence, _trimmed(source.synthesize(f"{plan.sentence}.", plan.speaker)))]
        elif isinstance(plan.speaker, str):
            clips = people[plan.speaker]
            pairs = [clips[int(plan.rng.integers(len(clips)))] for _ in plan.digits]
        elif isinstance(plan.speaker, WordSpeaker):
            pairs = [(WORDS[n], _trimmed(plan.speaker.say(n, WORDS[n], plan.rendition))) for n in plan.digits]
        else:
            pairs = [(WORDS[n], _trimmed(source.synthesize(WORDS[n], plan.speaker))) for n in plan.digits]
        if plan.split == "train" and not options.voice:
            moved = another_voice([wave for _, wave in pairs], plan.rng)
            pairs = [(text, wave) for (text, _), wave in zip(pairs, moved, strict=True)]
        speaker = plan.speaker if isinstance(plan.speaker, str) else plan.speaker.name
        _add(rows, folder, plan.split, f"{plan.split}-{plan.number:05d}", speaker, pairs, plan.rng, options)
    for row in recorded:
        if row["speaker"] in options.held_out:
            _add(
                rows, folder, "test", f"test-{Path(row['audio_filepath']).stem}", row["speaker"], row["cut"], None,
                options, row,
            )  # fmt: skip
    for name, found in rows.items():
        write_jsonl(folder / f"{name}.json", found)
    with atomic_write(folder / "labels" / "labels.txt") as file:
        file.writelines(f"{word}\n" for word in WORDS)
    return {name: len(found) for name, found in rows.items()}


class _Plan(NamedTuple):
    """A string: who says which digits or sentence. ``speaker`` is a person's name where recordings are joined."""

    split: str
    number: int
    speaker: str | WordSpeaker | Voice
    rendition: int
    digits: list[int]
    sentence: str
    rng: np.random.Generator


def _plan(options: DigitOptions, split: str, number: int, people: Sequence[str]) -> _Plan:
    training = split == "train"
    kind = ("train", "valid", "sentences").index(split)
    rng = np.random.default_rng(np.random.SeedSequence((options.seed, kind, number)))
    digits = [int(digit) for digit in rng.integers(0, 10, rng.integers(3, 8))]
    others = [] if options.espeak_only else [one for one in installed() if one.held_out is not training]
    speaker: str | WordSpeaker | Voice
    sentence = ""
    if split == "sentences" or (training and options.sentences and rng.random() < options.sentences):
        sentence = _sentence(not training, rng)
    if options.voice:
        speaker = Voice(options.voice, int(rng.integers(120, 160)), int(rng.integers(45, 55)), 50)
    elif sentence:
        speaker = _voice(rng, _VARIANTS if training else _HELD_OUT_VARIANTS)
    elif people and rng.random() < options.recorded_share:
        speaker = people[int(rng.integers(len(people)))]
    elif others and rng.random() < _OTHERS_SHARE:
        speaker = others[int(rng.integers(len(others)))]
    else:
        speaker = _voice(rng, _VARIANTS if training else _HELD_OUT_VARIANTS)
    rendition = int(rng.integers(speaker.renditions())) if isinstance(speaker, WordSpeaker) else 0
    return _Plan(split, number, speaker, rendition, [] if sentence else digits, sentence, rng)


def _sentence(held_out: bool, rng: np.random.Generator) -> str:
    while True:
        text = make_sentence("event", rng).lower()
        if (crc32(text.encode()) % _HELD_OUT_SENTENCES == 0) == held_out:
            return text


def _recordings(manifest: Path) -> Iterator[dict[str, Any]]:
    """The rows of a manifest, each with its digits as pairs of number and sound."""
    for line in iter_jsonl(manifest):
        row = line.row
        words = str(row.get("text", "")).split()
        if not words or not set(words) <= set(WORDS) or not isinstance(row.get("speaker"), str):
            raise InputError(f"{manifest}, line {line.number}: expected digits as words in text, and a speaker")
        wave, rate = read_audio(row["audio_filepath"])
        mono = resample(wave.mean(0), rate, SAMPLE_RATE).numpy()
        places = cut_digits(mono, len(words))
        if places is None:
            raise InputError(f"{row['audio_filepath']}: found no {len(words)} digits with silences between them")
        cut = [(word, mono[first:last]) for word, (first, last) in zip(words, places, strict=True)]
        yield {**row, "wave": mono, "places": places, "cut": cut}


def cut_digits(wave: Wave, count: int) -> list[tuple[int, int]] | None:
    """First sample of each isolated digit, and one past its last; None where no threshold finds ``count`` of them."""
    for depth in (60, 50, 45, 40, 35, 30, 25, 20):
        segments = energy_segments(wave, depth, bridge=0.1, shortest=0.1)
        if len(segments) == count:
            return [(round(a * SAMPLE_RATE), round(b * SAMPLE_RATE)) for a, b in segments]
    return None


def _voice(rng: np.random.Generator, variants: Sequence[str]) -> Voice:
    name = f"{_ACCENTS[int(rng.integers(len(_ACCENTS)))]}+{variants[int(rng.integers(len(variants)))]}"
    return Voice(name, int(rng.integers(115, 190)), int(rng.integers(15, 80)), int(rng.integers(20, 80)))


def _trimmed(wave: Wave) -> Wave:
    segments = energy_segments(wave, 45.0)
    if not segments:
        return wave
    return wave[round(segments[0][0] * SAMPLE_RATE) : round(segments[-1][1] * SAMPLE_RATE)]


def _add(
    rows: dict[str, list[dict[str, Any]]], folder: Path, split: str, name: str, speaker: str,
    pairs: list[tuple[str, Wave]], rng: np.random.Generator | None, options: DigitOptions,
    recording: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Rows of a string and of its digits; ``rng`` samples gaps, noise, level and bandwidth, None keeps a recording."""
    if recording is not None:
        wave, places = recording["wave"], recording["places"]
    else:
        assert rng is not None
        wave, places = _joined([wave for _, wave in pairs], rng, bool(options.voice))
    path = folder / "audio" / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = options.sample_rate
    write_audio(path, resample(torch.from_numpy(wave), SAMPLE_RATE, rate), rate)
    row = {"audio_filepath": str(path.absolute()), "duration": len(wave) / SAMPLE_RATE}
    text = " ".join(said for said, _ in pairs)
    rows.setdefault(split, []).append({**row, "text": text, "speaker": speaker})
    for (said, _), (first, last) in zip(pairs, places, strict=True):
        if said not in WORDS:
            continue
        part = {"offset": first / SAMPLE_RATE, "duration": (last - first) / SAMPLE_RATE}
        label = {"label": said, "speaker": speaker}
        rows.setdefault(f"labels/{split}", []).append({"audio_filepath": str(path.absolute()), **part, **label})


def _joined(pieces: list[Wave], rng: np.random.Generator, clean: bool) -> tuple[Wave, list[tuple[int, int]]]:
    """Digits with gaps, unless ``clean`` with noise, levels and a bandwidth; and the places of the digits."""
    parts, places, length = [], [], 0
    for piece in pieces:
        level = 10 ** ((-23 if clean else rng.uniform(-30, -18)) / 20) / max(float(np.sqrt(np.mean(piece**2))), 1e-6)
        gap = np.zeros(round(rng.uniform(0.08, 0.32) * SAMPLE_RATE), np.float32)
        parts += [gap, piece * np.float32(level)]
        places.append((length + len(gap), length + len(gap) + len(piece)))
        length += len(gap) + len(piece)
    parts.append(np.zeros(round(rng.uniform(0.05, 0.3) * SAMPLE_RATE), np.float32))
    if clean:  # recognisers do not expect digital silence
        wave = np.concatenate(parts)
        return (wave + make_noise(len(wave), -60.0, 0.0, rng)).clip(-0.99, 0.99), places
    wave = colour(np.concatenate(parts), rng)
    if rng.random() < 0.4:
        wave = room(wave, rng)
    wave = wave + make_noise(len(wave), float(rng.uniform(-95, -45)), float(rng.uniform(0, 0.9)), rng)
    if rng.random() < 0.7:  # as over a telephone, and as the recordings of digits that are free
        wave = resample(resample(torch.from_numpy(wave), SAMPLE_RATE, 8000), 8000, SAMPLE_RATE).numpy()
        wave = wave + make_noise(len(wave), float(rng.uniform(-95, -65)), 0.0, rng)
    return wave * np.float32(min(1.0, 0.9 / max(float(np.abs(wave).max()), 1e-6))), places
