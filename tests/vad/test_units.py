"""Speech from units: the silence of a known source, of noisy lines unlike each other, and of a real call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.vad.energy import Energy
from speechdlm_ext.vad.units import Units, find_silence_units

RATE = 50.0


def detect(units: object, silence: tuple[int, ...]) -> list[tuple[float, float]]:
    return Units(silence).read("a", {}, [units], RATE).speech[0]


def talk(rng: np.random.Generator, noise: list[int], frames: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Units of a channel and where they are speech: units 10 to 59 in runs of 1 to 4, or noise of a few units."""
    units, speaks = [], []
    while len(units) < frames:
        length = int(rng.integers(30, 150))
        speech = rng.random() < 0.5
        part: list[int] = []
        while len(part) < length:
            part += [int(rng.integers(10, 60))] * int(rng.integers(1, 5)) if speech else [int(rng.choice(noise))]
        units += part[:length]
        speaks += [speech] * length
    return np.array(units[:frames]), np.array(speaks[:frames])


def test_each_line_has_a_noise_of_its_own() -> None:
    rng = np.random.default_rng(0)
    channels = [talk(rng, noise) for noise in ([0, 1], [2, 3, 4], [5], [0, 1])]
    silence = find_silence_units([units for units, _ in channels], RATE)
    assert silence == (0, 1, 2, 3, 4, 5)
    for units, speaks in channels:
        grid = np.zeros(len(units), bool)
        for start, end in detect(units, silence):
            grid[round(start * RATE) : round(end * RATE)] = True
        assert np.array_equal(grid, speaks)


def test_a_channel_of_noise_alone_does_not_confuse() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 3, 3000)
    speech, _ = talk(rng, [0, 1, 2])
    assert find_silence_units([noise, speech], RATE) == (0, 1, 2)


@pytest.mark.parametrize("sequences", ([], [[1] * 20], [[1] * 5000], [np.arange(5000) % 97]))
def test_where_silence_cannot_be_told(sequences: list) -> None:
    with pytest.raises(InputError, match="silence cannot be found"):
        find_silence_units(sequences, RATE)


def test_short_runs_are_bridged_and_dropped() -> None:
    units = [0] * 10 + [7] * 2 + [0] * 10 + [7] * 10 + [0] * 4 + [8] * 10 + [0] * 10
    assert detect(units, (0,)) == [(0.44, 0.92)]
    assert detect([], (0,)) == []


def test_a_real_call_against_its_energy(data: Path) -> None:
    wave, rate = read_audio(data / "speech" / "calls" / "auto_repairs_40.ogg", 16000)
    wave = wave[:, : 60 * rate]
    features = torch.stack([LogMelEncoder().encode(channel, rate) for channel in wave])
    units = KMeans(50, random_state=1).fit_predict(features.flatten(0, 1).numpy()).reshape(len(features), -1)
    silence = find_silence_units(units, RATE)
    assert 0 < len(silence) < 25
    for channel in (0, 1):
        grids = np.zeros((2, len(units[channel])), bool)
        for grid, found in zip(
            grids,
            (detect(units[channel], silence), Energy().detect(wave[channel].numpy(), rate)[0]),
            strict=True,
        ):
            for start, end in found:
                grid[round(start * RATE) : round(end * RATE)] = True
        assert (grids[0] == grids[1]).mean() > 0.88
