"""Programs and recordings that are installed say words; those that are not are left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.synthetic.speakers import SPEAKERS, STRETCHES, WordSpeaker, installed, say_all

pytestmark = pytest.mark.commands  # programs that speak

TONE = (
    "import sys, numpy, soundfile; n = int(4000 * float(sys.argv[2])); "
    "soundfile.write(sys.argv[1], 0.3 * numpy.sin(numpy.arange(n) * len(sys.stdin.read()) / 20), 8000)"
)


def test_a_program_is_asked_for_a_word_of_a_length() -> None:
    program = WordSpeaker("tone", "x", sys.executable, (sys.executable, "-c", TONE, "{file}", "{stretch}"), True)
    assert program.is_installed() and program.renditions() == len(STRETCHES)
    say_all([(program, 0, "zero", number) for number in range(len(STRETCHES))])
    for number, stretch in enumerate(STRETCHES):
        assert len(program.say(0, "zero", number)) == pytest.approx(8000 * stretch, abs=2)  # resampled to 16 kHz


def test_a_program_that_fails_is_named() -> None:
    program = WordSpeaker("broken", "x", sys.executable, (sys.executable, "-c", "raise SystemExit('no voice')"))
    with pytest.raises(InputError, match="broken: .* ended with status 1: no voice"):
        program.say(0, "zero")


def test_recordings_by_number_and_word(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "0-zero.wav", np.full(1600, 0.5), 16000)
    recorded = WordSpeaker("someone", "x", str(tmp_path / "{number}-{word}.wav"))
    absent = WordSpeaker("nobody", "x", str(tmp_path / "none" / "{number}.wav"))
    assert installed((recorded, absent)) == (recorded,)
    assert recorded.renditions() == 1 and len(recorded.say(0, "zero")) == 1600


def test_names_are_unique_and_some_are_for_validation() -> None:
    names = [speaker.name for speaker in SPEAKERS]
    assert len(set(names)) == len(names) and 3 <= sum(speaker.held_out for speaker in SPEAKERS) < len(names) / 3
