"""Speakers synthesized by espeak-ng within this process: sentences of a small grammar.

espeak-ng (https://github.com/espeak-ng/espeak-ng) is free software under the GNU General Public License, version 3 or
later; the package ``espeakng-loader`` carries its library and data. Nothing of it is part of this package: it is
loaded at run time when the extra ``[demo]`` is installed.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Clip, Wave, energy_segments, make_clip

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS of speak_lib.h: sound comes to a callback, in the calling thread
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """An espeak-ng voice with its manner: words per minute, pitch and pitch range (0 to 100)."""

    name: str
    rate: int
    pitch: int
    range: int


# Only variants whose sound does not depend on the contents of fresh memory (f2, f3, f5 and Alicia do, in 1.52).
VOICES = {
    "anna": Voice("en-us+Annie", 165, 52, 55),
    "ben": Voice("en-us+m3", 170, 42, 50),
    "clara": Voice("en-us+f4", 175, 60, 50),
    "daniel": Voice("en-us+m7", 160, 32, 45),
}

# A name in braces is replaced by one of its entries; entries may hold further names. The vocabulary is kept small on
# purpose: words must recur often enough for a small model to learn their units in minutes.
GRAMMAR: dict[str, Sequence[str]] = {
    "statement": (
        "{opener}{event}",
        "{opener}{opinion}",
        "{event}",
        "{opinion}",
        "{opener}we should {plan} {time}",
        "I want to {plan} {time}",
        "and {event}",
        "but {opinion}",
    ),
    "question": (
        "do you want to {plan} {time}",
        "did you see the {thing} in the {place}",
        "how was the {place} {past}",
        "what did you do {past}",
        "do you like the {quality} {thing}",
        "can we {plan} {time}",
    ),
    "answer": (
        "yes, {event}",
        "no, {opinion}",
        "yes, I want to {plan}",
        "maybe we can {plan} {time}",
        "I do not know, {opinion}",
        "sure, {time} is {quality}",
        "no, not really",
    ),
    "backchannel": ("mhm", "mhm", "yeah", "yeah", "right", "okay", "I see", "really", "uh huh", "oh"),
    "laughter": ("ha ha ha", "he he he"),
    "opener": ("well, ", "you know, ", "I mean, ", "so, ", "and then "),
    "event": (
        "I went to the {place} {past}",
        "my {person} was in the {place} {past}",
        "we saw a {quality} {thing} {past}",
        "my {person} bought a {quality} {thing}",
        "there was a {quality} {thing} in the {place}",
        "I lost my {thing} in the {place}",
    ),
    "opinion": (
        "I think the {thing} was {quality}",
        "the {place} is really {quality}",
        "my {person} likes the {quality} {thing}",
        "I like the {place} very much",
        "that is what my {person} said",
    ),
    "plan": (
        "go to the {place}",
        "see my {person}",
        "buy a {quality} {thing}",
        "find the {thing}",
        "call my {person}",
    ),
    "person": ("mother", "father", "sister", "brother", "friend", "teacher"),
    "place": ("market", "garden", "station", "kitchen", "office", "village", "museum"),
    "thing": ("table", "letter", "bicycle", "picture", "coat", "window", "radio"),
    "quality": ("good", "big", "little", "green", "new", "beautiful", "funny"),
    "time": ("today", "tomorrow", "on Monday", "next week"),
    "past": ("yesterday", "last week", "on Sunday", "this morning"),
}

_SLOT = re.compile(r"\{(\w+)\}")


def make_sentence(kind: str, rng: np.random.Generator) -> str:
    """A sentence of the given ``kind`` (a key of :data:`GRAMMAR`), sampled with ``rng``."""

    def fill(match: re.Match[str]) -> str:
        return make_sentence(match.group(1), rng)

    choices = GRAMMAR[kind]
    return _SLOT.sub(fill, choices[int(rng.integers(len(choices)))])


def vocabulary() -> set[str]:
    """All words that the grammar can produce, in lower case."""
    text = " ".join(" ".join(entries) for entries in GRAMMAR.values())
    return set(re.findall(r"[a-z']+", _SLOT.sub(" ", text).lower()))


class EspeakSource:
    """Sentences of :data:`GRAMMAR` in voices of espeak-ng.

    The library carries state from one utterance to the next (phase and noise generators), so the same
    calls give the same samples only from a fresh process on: each dialogue is generated in a process of its own.

    Args:
        voices: how many of :data:`VOICES`, or which; each dialogue samples two of them.

    Raises:
        InputError: fewer than 2 or more than there are, no such voice, or espeakng-loader is not installed.
    """

    def __init__(self, voices: int | Sequence[str] = len(VOICES)) -> None:
        names = list(VOICES)[: max(0, voices)] if isinstance(voices, int) else list(dict.fromkeys(voices))
        if len(names) < 2 or not set(names) <= set(VOICES) or (isinstance(voices, int) and voices > len(VOICES)):
            given = voices if isinstance(voices, int) else " ".join(voices)
            raise InputError(f"--voices {given}: expected 2 to {len(VOICES)} of {', '.join(VOICES)}")
        self._voices = names
        self._library_path, self._data_path = _find_library()
        self._library: ctypes.CDLL | None = None
        self._chunks: list[bytes] = []
        self._native_rate = 0

    @property
    def speakers(self) -> list[str]:
        """Names of the voices."""
        return list(self._voices)

    def settings(self) -> dict[str, object]:
        """Version of espeak-ng, voices and grammar."""
        library = ctypes.CDLL(self._library_path)
        library.espeak_Info.restype = ctypes.c_char_p
        version = (library.espeak_Info(None) or b"").decode()
        voices = {name: list(vars(voice).values()) for name, voice in VOICES.items() if name in self._voices}
        return {"source": f"espeak-ng {version}", "voices": voices, "grammar": {k: list(v) for k, v in GRAMMAR.items()}}

    def utterance(self, speaker: str, kind: str, rng: np.random.Generator) -> Clip:
        """Synthesize a sentence of the given kind."""
        text = make_sentence(kind, rng)
        wave = self.synthesize(text + ("?" if kind == "question" else "."), VOICES[speaker])
        return make_clip(wave, energy_segments(wave), text, kind)

    def synthesize(self, text: str, voice: Voice) -> Wave:
        """Synthesize ``text``.

        Returns:
            Samples (N,) at 16 kHz, full scale 1, with the silence that espeak-ng adds around it.
        """
        library = self._start()
        if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise InputError(f"espeak-ng has no voice {voice.name!r}: install a complete espeakng-loader")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        data = text.encode() + b"\0"
        if library.espeak_Synth(data, len(data), 0, 0, 0, _UTF8, None, None) != 0:
            raise RuntimeError(f"espeak-ng could not synthesize {text!r}")
        samples = np.frombuffer(b"".join(self._chunks), dtype=np.int16)
        return _to_16k((samples / 32768).astype(np.float32), self._native_rate)

    def _start(self) -> ctypes.CDLL:
        if self._library is not None:
            return self._library
        library = ctypes.CDLL(self._library_path)
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._native_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, self._data_path.encode(), 0)
        if self._native_rate <= 0:
            raise InputError(f"espeak-ng found no data in {self._data_path}: reinstall espeakng-loader")
        self._callback = _CALLBACK(self._take)  # kept: the library holds only a pointer
        library.espeak_SetSynthCallback(self._callback)
        if hasattr(library, "espeak_ng_SetRandSeed"):
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._library = library
        return library

    def _take(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0


def _to_16k(samples: Wave, rate: int) -> Wave:
    import torch

    from speechdlm_ext.io.audio import resample

    return resample(torch.from_numpy(samples), rate, SAMPLE_RATE).numpy()


def _find_library() -> tuple[str, str]:
    """Paths of espeak-ng's library and of its data."""
    try:
        loader = importlib.import_module("espeakng_loader")
    except ImportError:
        raise InputError(
            "espeak-ng needs the package espeakng-loader: pip install '.[demo]', "
            "or pass --speech FOLDER with recordings of your own"
        ) from None
    return str(loader.get_library_path()), str(loader.get_data_path())
