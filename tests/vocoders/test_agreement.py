"""Resynthesis by a codebook that has never heard the recordings: speech and silence, lengths and levels stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.encoders.logmel import active_level
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_audio
from speechdlm_ext.metrics.agreement import Agreement, agreement_table, compare_sounds
from speechdlm_ext.units.kmeans import train_codebook
from speechdlm_ext.units.pipeline import UnitPipeline
from speechdlm_ext.vad import build_detector
from speechdlm_ext.vocoders import CodebookVocoder
from speechdlm_ext.vocoders.agreement import compare_resynthesis
from speechdlm_ext.vocoders.resynthesize import match_levels, resynthesize
from tests.helpers.features import sample_features

# A far microphone among them, and a call whose channels are each silent for half of the time.
HEARD = (
    "ami/trn00",
    "calls/google_two_channel",
    "librispeech_test_other/1998-15444-0007",
    "jfk/jfk",
)
OTHERS = ("librispeech_test_other", "fsdd_strings", "ljspeech")


def row(path: Path) -> dict[str, Any]:
    info = audio_info(path)
    facts = {"duration": info.duration, "channels": info.channels, "sample_rate": info.sample_rate}
    return {"id": path.stem, "audio_filepath": str(path), **facts}


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, Any]]:
    return [row(next((data / "speech").glob(f"{name}.*"))) for name in HEARD]


@pytest.fixture(scope="module")
def output(data: Path, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    others = [
        row(path)
        for name in OTHERS
        for path in sorted((data / "speech" / name).iterdir())
        if f"{name}/{path.stem}" not in HEARD
    ]
    encoder = LogMelEncoder()
    features, levels = sample_features(others, encoder, 6000, seed=1)
    codebook = train_codebook(features, encoder, 100, 1, levels)
    folder = tmp_path_factory.mktemp("made")
    choice = UnitPipeline(codebook, encoder, None, {})
    resynthesize(rows, "speech", choice, CodebookVocoder(codebook), folder, say=lambda text: None)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


@pytest.mark.commands
@pytest.mark.parametrize("method", ["energy", "silero"])
def test_speech_and_silence_are_where_they_were(method: str, rows: list[dict[str, Any]], output: Path) -> None:
    found = list(compare_resynthesis(rows, "speech", output, build_detector(method).detect))
    assert [name for name, _, _ in found] == [one["id"] for one in rows]
    for name, folder, channels in found:
        assert f"{folder}/{name}" in HEARD
        for one in channels:
            # silero, which was made for voices and not for buzz, may take a voice of pulses for noise now and then.
            assert one.share >= (0.9 if method == "energy" else 0.8), (name, one)
    # Far above what one constant answer for each channel would get.
    shares, chances = zip(*((one.share, one.chance) for _, _, group in found for one in group), strict=True)
    assert np.mean(shares) >= 0.92 and np.mean(chances) < 0.8


def _levels(sound: torch.Tensor) -> list[float]:
    return [
        active_level(channel.unflatten(0, (-1, 320)).square().mean(dim=1))
        for channel in sound[:, : sound.shape[1] // 320 * 320]
    ]


def test_channels_are_as_loud_and_as_long_as_the_recording(rows: list[dict[str, Any]], output: Path) -> None:
    levels = []
    for name, one in zip(HEARD, rows, strict=True):
        source, _ = read_audio(one["audio_filepath"], 16000)
        made, _ = read_audio(output / "speech" / f"{name}.wav", 16000)
        assert made.shape == source.shape
        expected, found = (_levels(sound) for sound in (source, made))
        # Less only where peaks would have gone beyond full scale.
        for channel, level, got in zip(made, expected, found, strict=True):
            assert got == pytest.approx(level, abs=0.1) or (got < level and float(channel.abs().max()) > 0.98)
        levels += expected
    assert max(levels) - min(levels) > 10  # the recordings differ, so that one level for all would not do


def test_levels_against_a_known_sine() -> None:
    """A sine of amplitude a has a mean square of a² / 2, in 1 s of 2 s: the pause does not count."""
    time = torch.arange(32000) / 16000
    sine = torch.sin(2 * torch.pi * 400 * time) * (time < 1)
    sound = match_levels(torch.stack([0.5 * sine, 0.01 * sine]), 16000, [-40.0, 6.0])
    assert float(sound[0].abs().max()) == pytest.approx((2 * 10**-4) ** 0.5, rel=1e-3)
    assert float(sound[1].abs().max()) == pytest.approx(0.99, rel=1e-3)  # not beyond full scale
    assert bool(torch.isfinite(match_levels(torch.zeros(1, 400), 16000, [-20.0])).all())


def test_comparison_against_known_sounds() -> None:
    """The detector here says speech where the sound is above 0.5: every frame is known."""

    def listen(wave: np.ndarray, rate: int) -> list[list[tuple[float, float]]]:
        return [[(n / 100, (n + 1) / 100) for n in range(wave.shape[1] // 160) if c[n * 160] > 0.5] for c in wave]

    source = np.repeat(np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32), 160, axis=1)
    made = np.repeat(np.array([[1, 0, 0, 0, 1], [0, 0, 0, 0, 0]], np.float32), 160, axis=1)
    first, second = compare_sounds(source, made, 16000, listen)
    assert first == Agreement(pytest.approx(0.6), pytest.approx(0.6), pytest.approx(0.4), pytest.approx(0.4))
    assert second == Agreement(1.0, 1.0, 0.0, 0.0)
    table = agreement_table({"b": [first], "a": [second]}).splitlines()
    assert table[2:] == [
        "| a | 1 | 100.0% | 100.0% | 0 | 100.0% |",
        "| b | 1 | 60.0% | 60.0% | 1 | 60.0% |",
        "| all | 2 | 80.0% | 60.0% | 1 | 80.0% |",
    ]
    for wrong in (made[:1], np.pad(made, ((0, 0), (0, 321)))):
        with pytest.raises(InputError, match="expected as many, and equal lengths to a frame of 20 ms"):
            compare_sounds(source, wrong, 16000, listen)


def test_the_command(rows: list[dict[str, Any]], output: Path, checkout: Path, run_loaded: Any) -> None:
    command = ["python", checkout / "scripts/measure_agreement.py", output / "manifest.jsonl", "speech"]
    done = run_loaded([*command, "--output-dir", output, "--worst", "1"])
    lines = done.stdout.splitlines()
    found = {
        folder: group[0].share
        for _, folder, group in compare_resynthesis(rows, "speech", output, build_detector("energy").detect)
    }
    assert f"| ami | 1 | {found['ami']:.1%} | {found['ami']:.1%} | 0 | " in done.stdout
    assert lines[-2].startswith("| all | 5 | ") and lines[-1].endswith("% in what was made")
