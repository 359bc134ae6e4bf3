"""Voices from a folder of mono recordings, cut at their pauses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.synthetic.clips import SAMPLE_RATE, Clip, Wave, clean_speech, make_clip
from speechdlm_ext.vad.energy import ActivityOptions, detect_speech

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff")
_LISTENING = (0.2, 0.9)  # seconds: pieces as short as this serve as backchannels
_TALKING = (0.9, 8.0)  # seconds: all other utterances
# Thresholds of its own: where recordings are cut decides what is made of a seed.
_CUT = ActivityOptions(
    rise=0.45,
    fall=0.3,
    above_noise=0.0,
    below_loud=200.0,
    lowest_level=-60.0,
    shortest_silence=0.2,
    shortest_speech=0.2,
    window=0.03,
)


@dataclass(frozen=True)
class Piece:
    """A stretch of speech between two pauses: file, start and end in seconds."""

    path: str
    start: float
    end: float


class RecordingSource:
    """Utterances cut from recordings of people.

    A voice is a sub-folder, or, where the files lie in the folder itself, what stands before the first ``-`` or ``_``
    of their names (``1998-15444-0003.flac`` is voice ``1998``). Recordings of a single voice are dealt out to two.

    Args:
        folder: mono recordings, any sample rate.
        say: told about each file that is left out, one line each.

    Raises:
        InputError: no such folder, or no usable speech in it.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None] = print) -> None:
        self._talking: dict[str, list[Piece]] = {}
        self._listening: dict[str, list[Piece]] = {}
        self._digests: list[str] = []
        files = find_recordings(folder)
        names = _voice_names(Path(folder), files)
        for path, name in zip(files, names, strict=True):
            try:
                self._add(path, name)
            except InputError as error:
                say(f"left out: {one_line(error)}")
        if len(self._talking) < 2:
            raise InputError(
                f"{folder}: speech of two voices is needed, each with pieces of {_TALKING[0]} to {_TALKING[1]} s "
                f"between pauses; found {len(self._talking)}: add longer mono recordings"
            )

    def _add(self, path: Path, voice: str) -> None:
        wave = _read_mono(str(path))
        self._digests.append(f"{path.name} {voice} {hashlib.sha256(wave.tobytes()).hexdigest()}")
        for start, end in detect_speech(wave, SAMPLE_RATE, _CUT):
            for pieces, (least, most) in ((self._listening, _LISTENING), (self._talking, _TALKING)):
                if least <= end - start <= most:
                    pieces.setdefault(voice, []).append(Piece(str(path), start, end))

    @property
    def voices(self) -> list[str]:
        """Names of the voices that have something to say."""
        return sorted(self._talking)

    def settings(self) -> dict[str, object]:
        """A digest of all recordings."""
        return {"source": "recordings", "sha256": hashlib.sha256("\n".join(self._digests).encode()).hexdigest()}

    def speak(self, voice: str, kind: str, rng: np.random.Generator) -> Clip:
        """A piece of the voice's recordings; for backchannels and laughter a short one, or the beginning of another."""
        short = kind in ("backchannel", "laughter")
        pieces = self._listening.get(voice, []) if short else self._talking[voice]
        cut = short and not pieces
        pieces = self._talking[voice] if cut else pieces
        piece = pieces[int(rng.integers(len(pieces)))]
        wave = _read_mono(piece.path)[round(piece.start * SAMPLE_RATE) : round(piece.end * SAMPLE_RATE)]
        # Windows of 30 ms, which cut the piece, reach over 10 ms on either side of every sound: they lengthen its ends,
        # and take silences of a little more than 200 ms within it for shorter ones. What it says is looked at closely.
        clip = make_clip(wave, clean_speech(wave), "", kind)
        return clip.cut(float(rng.uniform(0.3, 0.6))) if cut else clip


def find_recordings(folder: str | Path) -> list[Path]:
    """Audio files in ``folder`` and below, in order of their paths.

    Raises:
        InputError: no such folder, or no audio file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"{folder}: no audio files ({', '.join(SUFFIXES)}) in it")
    return files


def _voice_names(folder: Path, files: list[Path]) -> list[str]:
    names = []
    for path in files:
        parts = path.relative_to(folder).parts
        names.append(_safe(parts[0] if len(parts) > 1 else re.split(r"[-_]", path.stem)[0] or path.stem))
    if len(set(names)) == 1:  # a single reader: the two sides get different recordings of the same voice
        names = [f"{name}-{1 + number % 2}" for number, name in enumerate(names)]
    return names


def _safe(name: str) -> str:
    """RTTM separates by white space."""
    return "_".join(name.split()) or "voice"


@lru_cache(maxsize=16)
def _read_mono(path: str) -> Wave:
    from speechdlm_ext.io.audio import read_audio

    wave, _ = read_audio(path, sample_rate=SAMPLE_RATE, channels=1)
    return np.ascontiguousarray(wave[0].numpy(), dtype=np.float32)
