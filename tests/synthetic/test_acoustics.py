"""Augmentation moves what it says it moves, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from speechdlm_ext.synthetic.acoustics import another_voice, change_tempo, colour, play_faster, room, shift_formants
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, Wave


def peak(wave: Wave, low: float, high: float) -> float:
    """Frequency of the strongest component between two frequencies, in Hz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    hertz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    inside = (hertz > low) & (hertz < high)
    return float(hertz[inside][spectrum[inside].argmax()])


@pytest.fixture(scope="module")
def vowel() -> Wave:
    """A second of a voice at 120 Hz with a formant at 1200 Hz."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    parts = [
        np.exp(-(((120 * n - 1200) / 250) ** 2)) * np.sin(2 * np.pi * 120 * n * time) + 0.02 * (n == 1) * np.sin(
            2 * np.pi * 120 * time
        )
        for n in range(1, 40)
    ]  # fmt: skip
    return np.asarray(0.2 * np.sum(parts, axis=0), np.float32)


def test_a_tape_moves_pitch_formants_and_duration(vowel: Wave) -> None:
    faster = play_faster(vowel, 1.25)
    assert len(faster) == pytest.approx(len(vowel) / 1.25, rel=0.01)
    assert peak(faster, 50, 220) == pytest.approx(150, abs=3) and peak(faster, 900, 2500) == pytest.approx(1500, abs=80)


@pytest.mark.parametrize("tempo", [0.8, 1.3])
def test_tempo_alone(vowel: Wave, tempo: float) -> None:
    changed = change_tempo(vowel, tempo)
    assert len(changed) == round(len(vowel) / tempo)
    assert peak(changed, 900, 2500) == pytest.approx(1200, abs=40)
    assert np.std(changed) == pytest.approx(np.std(vowel), rel=0.15)


def test_formants_alone(vowel: Wave) -> None:
    shifted = shift_formants(vowel, 1.25)
    assert len(shifted) == len(vowel)
    assert peak(shifted, 900, 2500) == pytest.approx(1500, abs=130)
    assert peak(shifted, 900, 2500) % 120 == pytest.approx(0, abs=2)  # still a harmonic of the same voice
    assert shift_formants(vowel[:100], 1.2) is not None


def test_rooms_and_microphones_keep_length_and_place(vowel: Wave) -> None:
    rng = np.random.default_rng(1)
    late = np.concatenate([np.zeros(4000, np.float32), vowel])
    for heard in (room(late, rng), colour(late, rng)):
        assert len(heard) == len(late) and np.isfinite(heard).all() and np.std(heard) > 0
    assert np.abs(room(late, rng)[:4000]).max() < 1e-4  # nothing sounds before its cause
    first, second = another_voice([vowel, vowel], np.random.default_rng(2))
    np.testing.assert_array_equal(first, second)
