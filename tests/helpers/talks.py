"""Dialogues for the tests of evaluation: bursts of noise in noise, whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

Stretches = list[tuple[float, float]]


def write_talk(path: Path, activity: list[Stretches], seconds: float, rate: int = 8000, seed: int = 0) -> Path:
    """A recording of as many channels as ``activity`` has; -20 dB where it speaks, over noise of -70 dB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    wave = 10 ** (-70 / 20) * rng.standard_normal((round(seconds * rate), len(activity)))
    for channel, stretches in enumerate(activity):
        for start, end in stretches:
            part = slice(round(start * rate), round(end * rate))
            wave[part, channel] += 0.1 * rng.standard_normal(len(wave[part]))
    soundfile.write(path, wave, rate)
    return path


def take_turns(seed: int, seconds: float = 40.0, turn: float = 2.0, offset: float = 0.3) -> list[Stretches]:
    """Two who alternate."""
    rng = np.random.default_rng(seed)
    talk: list[Stretches] = [[], []]
    time, who = 1.0, 0
    while time < seconds - 2 * turn - 1:
        length = round(float(turn * rng.uniform(0.5, 1.5)), 2)
        talk[who].append((time, round(time + length, 2)))
        time = round(time + length + offset, 2)
        who = 1 - who
    return talk
