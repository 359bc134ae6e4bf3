"""Leaks from one channel into another: found with gain and delay, on real speech; and not where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.metrics.agreement import speech_agreement
from speechdlm_ext.vad.crosstalk import Leak, find_leak, leaking_frames
from speechdlm_ext.vad.energy import detect_speech_of_channels
from speechdlm_ext.vad.levels import ChannelLevels, measure_levels

RATE = 16000
NOISE = -70.0  # dB re full scale


@pytest.fixture(scope="module")
def talk(data: Path) -> np.ndarray:
    """Two readers who take turns for half a minute, (2, N), with noise."""
    folder = data / "speech" / "librispeech_test_other"
    wave = np.zeros((2, 30 * RATE), np.float32)
    place = 0
    for number, name in enumerate(
        (
            "1998-15444-0007",
            "2033-164914-0004",
            "1998-15444-0008",
            "2033-164914-0005",
            "1998-15444-0007",
            "2033-164914-0004",
            "1998-15444-0008",
            "2033-164914-0005",
        )
    ):
        part = read_audio(folder / f"{name}.ogg", RATE)[0][0].numpy()[: wave.shape[1] - place]
        wave[number % 2, place : place + len(part)] = part / np.abs(part).max() / 3
        place += len(part) - RATE // 2  # half a second together
    return wave + 10 ** (NOISE / 20) * np.random.default_rng(0).standard_normal(wave.shape).astype(np.float32)


def leak(wave: np.ndarray, gain: float, delay: float) -> np.ndarray:
    """Each channel in the other, ``gain`` dB of it, ``delay`` seconds later."""
    late = np.pad(wave[::-1], ((0, 0), (round(delay * RATE), 0)))[:, : wave.shape[1]]
    return wave + np.float32(10 ** (gain / 20)) * late


def levels(wave: np.ndarray) -> list[ChannelLevels]:
    return [measure_levels(channel, RATE) for channel in wave]


@pytest.mark.parametrize(("gain", "delay"), [(-15.0, 0.0), (-20.0, 0.06), (-30.0, 0.0), (-25.0, 0.2)])
def test_gain_and_delay_are_found(talk: np.ndarray, gain: float, delay: float) -> None:
    one, other = levels(leak(talk, gain, delay))
    for channel, source in ((one, other), (other, one)):
        found = find_leak(channel.level, source.level, NOISE)
        assert found is not None
        assert found.gain == pytest.approx(gain, abs=1.5) and found.delay == pytest.approx(100 * delay, abs=1)


def test_there_is_no_leak(talk: np.ndarray) -> None:
    one, other = levels(talk)
    assert find_leak(one.level, other.level, NOISE) is None and find_leak(other.level, one.level, NOISE) is None
    frames, doubtful = leaking_frames(one, [other], NOISE)
    assert not frames.any() and not doubtful.any()
    same = levels(np.stack([talk[0], talk[0]]))  # the same sound twice: nobody knows whose
    assert find_leak(same[0].level, same[1].level, NOISE) is None
    together = levels(talk + talk[::-1, ::-1])  # people who talk all the time, over each other
    assert find_leak(together[0].level, together[1].level, NOISE) is None
    for count in (0, 10, 90):  # too short
        assert find_leak(one.level[:count], other.level[:count], NOISE) is None


def test_frames_that_leak(talk: np.ndarray) -> None:
    """Where only the other is heard, they do; own speech as loud as the other's does not."""
    clean, leaky = levels(talk), levels(leak(talk, -25, 0))
    frames, doubtful = leaking_frames(leaky[0], [leaky[1]], NOISE)
    silent = clean[0].level < NOISE + 3
    heard = leaky[0].level > NOISE + 6
    assert frames[silent & heard].mean() > 0.98 and not (frames & ~doubtful).any()
    near = np.max([np.roll(clean[1].level, by) for by in (-1, 0, 1)], axis=0)
    assert not frames[clean[0].level > near - 15].any()


def test_an_exact_case() -> None:
    rng = np.random.default_rng(1)
    other = np.where(np.arange(2000) % 400 < 300, rng.uniform(-35, -25, 2000), -80.0)
    level = np.maximum(np.roll(other, 7) - 20, -70.0)
    level[500:600] = -30.0  # own speech
    found = find_leak(level, other, -70.0)
    assert found == Leak(pytest.approx(-20.0), 7, 2.0)


def test_what_is_only_sometimes_heard_does_not_leak() -> None:
    """A third of the other's time the channel is 20 dB below it, as by chance; else it has nothing but its noise."""
    other = np.where(np.arange(3000) % 400 < 300, np.random.default_rng(1).uniform(-35, -25, 3000), -80.0)
    level = np.where(np.arange(3000) % 300 < 100, np.maximum(other - 20, -70.0), -70.0)
    assert find_leak(level, other, -70.0) is None
    assert find_leak(np.maximum(other - 20, -70.0), other, -70.0) is not None


@pytest.mark.parametrize("delay", [0.0, 0.125])
def test_the_energy_detector_hears_each_person_once(talk: np.ndarray, delay: float) -> None:
    seconds = talk.shape[1] / RATE
    clean, leaky = (detect_speech_of_channels(wave, RATE) for wave in (talk, leak(talk, -20, delay)))
    for one, other in zip(clean, leaky, strict=True):
        assert speech_agreement(one, other, seconds) > 0.95
