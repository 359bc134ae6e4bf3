"""Speakers from a folder of mono recordings, cut at their pauses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.readers import SUFFIXES
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Clip, Wave, energy_segments, make_clip
from speechdlm_ext.vad.energy import Energy

_BACKCHANNEL = (0.2, 0.9)  # seconds: segments as short as this serve as backchannels
_UTTERANCE = (0.9, 8.0)  # seconds: all other utterances
# Thresholds of its own: where recordings are cut decides what a seed gives.
_CUT = Energy(rise=0.45, fall=0.3, lowest_level=-60.0, min_silence=0.2, min_speech=0.2)


class Segment(NamedTuple):
    """A segment of speech of a file; ``start`` and ``end`` in seconds."""

    path: str
    start: float
    end: float


class RecordingSource:
    """Utterances cut from recorded speech.

    A speaker is a sub-folder, or, where the files lie in the folder itself, the part of their names before the first
    ``-`` or ``_`` (``1998-15444-0003.flac`` is speaker ``1998``). Recordings of a single speaker are split into two.

    Args:
        folder: mono recordings, any sample rate.
        warn: called with a line about each file that is skipped.

    Raises:
        InputError: no such folder, or no usable speech in it.
    """

    def __init__(self, folder: str | Path, warn: Callable[[str], None] = print) -> None:
        self._utterances: dict[str, list[Segment]] = {}
        self._backchannels: dict[str, list[Segment]] = {}
        self._digests: list[str] = []
        files = find_recordings(folder)
        for path, speaker in zip(files, _speakers(Path(folder), files), strict=True):
            try:
                self._add(path, speaker)
            except InputError as error:
                warn(f"skipped: {one_line(error)}")
        if len(self._utterances) < 2:
            raise InputError(
                f"{folder}: found speech of {len(self._utterances)} speakers, expected two or more, each with segments "
                f"of {_UTTERANCE[0]} to {_UTTERANCE[1]} s between pauses: add longer mono recordings"
            )

    def _add(self, path: Path, speaker: str) -> None:
        wave = _read_mono(str(path))
        self._digests.append(f"{path.name} {speaker} {hashlib.sha256(wave.tobytes()).hexdigest()}")
        for start, end in _CUT.detect(wave, SAMPLE_RATE)[0]:
            for segments, (shortest, longest) in ((self._backchannels, _BACKCHANNEL), (self._utterances, _UTTERANCE)):
                if shortest <= end - start <= longest:
                    segments.setdefault(speaker, []).append(Segment(str(path), start, end))

    @property
    def speakers(self) -> list[str]:
        """Names of the speakers that have utterances."""
        return sorted(self._utterances)

    def settings(self) -> dict[str, object]:
        """A digest of all recordings."""
        return {"source": "recordings", "sha256": hashlib.sha256("\n".join(self._digests).encode()).hexdigest()}

    def utterance(self, speaker: str, kind: str, rng: np.random.Generator) -> Clip:
        """A segment of the speaker's; backchannels and laughter are short ones, or the start of a longer one."""
        short = kind in ("backchannel", "laughter")
        segments = self._backchannels.get(speaker, []) if short else self._utterances[speaker]
        cut = short and not segments
        segments = self._utterances[speaker] if cut else segments
        path, start, end = segments[int(rng.integers(len(segments)))]
        wave = _read_mono(path)[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        # The windows of 30 ms by which recordings are cut extend each segment by 10 ms on either side, and bridge
        # silences of a little more than 200 ms: the ground truth is found at 5 ms.
        clip = make_clip(wave, energy_segments(wave), "", kind)
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


def _speakers(folder: Path, files: list[Path]) -> list[str]:
    names = []
    for path in files:
        parts = path.relative_to(folder).parts
        name = parts[0] if len(parts) > 1 else re.split(r"[-_]", path.stem)[0] or path.stem
        names.append("_".join(name.split()) or "speaker")  # RTTM separates by white space
    if len(set(names)) == 1:  # the two channels get different recordings of the same speaker
        names = [f"{name}-{1 + number % 2}" for number, name in enumerate(names)]
    return names


@lru_cache(maxsize=16)
def _read_mono(path: str) -> Wave:
    wave, _ = read_audio(path, sample_rate=SAMPLE_RATE, channels=1)
    return np.ascontiguousarray(wave[0].numpy(), dtype=np.float32)
