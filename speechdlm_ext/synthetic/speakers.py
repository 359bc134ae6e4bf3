"""Speakers of single words beside those of espeak-ng's own voices: programs and recordings of Debian's packages.

Nothing of them is part of this package: what is installed is used, and which that was is said.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio, resample
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Wave

STRETCHES = (0.9, 1.25)  # durations of a program's words, relative to its own


@dataclass(frozen=True)
class WordSpeaker:
    """A program that synthesizes words, or a folder of recorded ones.

    Attributes:
        name: of the speaker.
        package: of Debian, that carries it.
        needs: file without which it is not installed; for a recording, with ``{number}`` or ``{word}``, the recording.
        command: writes ``{file}`` from ``{text}``, ``{stretch}`` times as long as usual (``{rate}``: words per minute,
            ``{percent}``: of the usual speed); empty for recordings.
        text_on_stdin: the command reads its text there.
        held_out: is for validation.
    """

    name: str
    package: str
    needs: str
    command: tuple[str, ...] = ()
    text_on_stdin: bool = False
    held_out: bool = False

    def is_installed(self) -> bool:
        """Whether the program and the voice, or the recordings, are there."""
        program = not self.command or shutil.which(self.command[0]) is not None
        return program and Path(self.needs.format(number=0, word="zero")).exists()

    def renditions(self) -> int:
        """How many ways of saying a word there are."""
        return len(STRETCHES) if self.command else 1

    @lru_cache(maxsize=4096)  # noqa: B019 - speakers live as long as the process
    def say(self, number: int, word: str, rendition: int = 0) -> Wave:
        """A digit as samples (N,) at 16 kHz.

        Raises:
            InputError: the program failed.
        """
        if not self.command:
            return _read(Path(self.needs.format(number=number, word=word)))
        stretch = STRETCHES[rendition]
        with TemporaryDirectory() as folder:
            file = Path(folder) / "word.wav"
            values = {
                "text": f"{word}.", "file": str(file), "stretch": f"{stretch:g}", "rate": str(round(160 / stretch)),
                "percent": str(round(100 / stretch)),
            }  # fmt: skip
            command = [part.format(**values) for part in self.command]
            done = subprocess.run(
                command, input=values["text"] if self.text_on_stdin else None, text=True, capture_output=True
            )
            if done.returncode or not file.exists():
                said = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise InputError(f"{self.name}: {command[0]} ended with status {done.returncode}: {said}")
            return _read(file)


def _read(path: Path) -> Wave:
    wave, rate = read_audio(path)
    return resample(wave.mean(0), rate, SAMPLE_RATE).numpy()


def _flite(voice: str, held_out: bool = False) -> WordSpeaker:
    command = ("flite", "-voice", voice, "--setf", "duration_stretch={stretch}", "-t", "{text}", "-o", "{file}")
    return WordSpeaker(f"flite-{voice}", "flite", "/usr/bin/flite", command, held_out=held_out)


def _festival(voice: str, package: str, folder: str) -> WordSpeaker:
    stretch = "(Parameter.set 'Duration_Stretch {stretch})"
    command = ("text2wave", "-eval", f"(voice_{voice})", "-eval", stretch, "-o", "{file}")
    folder = f"/usr/share/festival/voices/{folder}/{voice}"
    return WordSpeaker(f"festival-{voice}", package, folder, command, text_on_stdin=True)


def _rhvoice(voice: str) -> WordSpeaker:
    command = ("RHVoice-test", "-p", voice, "-r", "{percent}", "-o", "{file}")
    folder = f"/usr/share/RHVoice/voices/{voice}"
    return WordSpeaker(f"rhvoice-{voice}", "rhvoice rhvoice-english", folder, command, text_on_stdin=True)


def _pico(language: str) -> WordSpeaker:
    command = ("pico2wave", "-l", language, "-w", "{file}", '<speed level="{percent}">{text}</speed>')
    return WordSpeaker(f"pico-{language}", "libttspico-utils", "/usr/bin/pico2wave", command)


def _mbrola(voice: str, accent: str = "-en", held_out: bool = False) -> WordSpeaker:
    """Diphones of a person; with the accent ``-en``, of one who speaks another language, English."""
    command = ("espeak-ng", "-v", f"mb-{voice}{accent}", "-s", "{rate}", "-w", "{file}", "{text}")
    needs = f"/usr/share/mbrola/{voice}/{voice}"
    return WordSpeaker(f"mbrola-{voice}", f"espeak-ng mbrola-{voice}", needs, command, held_out=held_out)


SPEAKERS = (
    _flite("kal16"), _flite("slt"), _flite("awb"), _flite("rms", held_out=True),
    _festival("ked_diphone", "festvox-kdlpc16k", "english"),
    _festival("cmu_us_slt_arctic_hts", "festvox-us-slt-hts", "us"),
    *(_rhvoice(voice) for voice in ("alan", "bdl", "clb", "slt", "evgeniy-eng", "lyubov")),
    _pico("en-US"), _pico("en-GB"),
    _mbrola("us1", ""), _mbrola("us2", "", held_out=True), _mbrola("us3", ""), _mbrola("en1", ""),
    *(_mbrola(voice) for voice in (
        "af1", "de1", "de2", "de3", "de5", "de6", "fr1", "fr4", "gr2", "hu1", "nl2", "pl1", "ro1", "sw1", "sw2",
    )),
    _mbrola("de4", held_out=True),
    WordSpeaker(
        "asterisk-allison", "asterisk-core-sounds-en-wav",
        "/usr/share/asterisk/sounds/en_US_f_Allison/digits/{number}.wav",
    ),
    WordSpeaker("saytime", "saytime", "/usr/share/saytime/{number}.au", held_out=True),
)  # fmt: skip


@lru_cache(maxsize=1)
def installed(speakers: tuple[WordSpeaker, ...] = SPEAKERS) -> tuple[WordSpeaker, ...]:
    """Those that are installed."""
    return tuple(speaker for speaker in speakers if speaker.is_installed())


def say_all(asked: Iterable[tuple[WordSpeaker, int, str, int]], progress: Callable[[Any], Any] = iter) -> None:
    """Have words ready, given what :meth:`WordSpeaker.say` takes; the programs run side by side."""
    with ThreadPoolExecutor(4) as pool:
        for future in progress([pool.submit(speaker.say, *rest) for speaker, *rest in asked]):
            future.result()
