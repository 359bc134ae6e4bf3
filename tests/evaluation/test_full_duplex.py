"""The layout of Full-Duplex-Bench, there and back, and its timing measures on samples whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechdlm_ext.evaluation.corpus import read_corpus
from speechdlm_ext.evaluation.evaluation import EvaluationOptions, evaluate
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from tests.helpers.talks import Stretches, write_talk

# What user and model say: an answer after 0.5 s and two mhms; none; one in the user's pause; one that began early.
SAMPLES: dict[str, list[Stretches]] = {
    "turn/1": [[(0.5, 3), (3.6, 6)], [(1.5, 1.9), (3.1, 3.5), (6.5, 9)]],
    "turn/2": [[(1, 5)], [(5.5, 6.2)]],
    "pause/1": [[(0.5, 3), (6, 8)], [(3.5, 5.5)]],
    "pause/2": [[(0.5, 5)], [(4, 8)]],
    "mute/1": [[], [(4, 6)]],
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    for name, (user, model) in SAMPLES.items():
        write_talk(folder / name / "input.wav", [user], 10, seed=1)
        write_talk(folder / name / "output.wav", [model], 10, seed=2)
    return folder


def run(corpus: Path, out: Path, folder: Path) -> dict:
    options = EvaluationOptions(corpus, vad="energy", num_workers=1, full_duplex=folder, bootstrap=BootstrapOptions(10))
    return evaluate(options, out).result


def test_measures(bench: Path, tmp_path: Path) -> None:
    assert read_corpus(bench).names() == sorted(SAMPLES)
    figures = run(bench, tmp_path / "out", bench)["full_duplex_bench"]
    turn, pause, both = figures["turn"], figures["pause"], figures["all"]
    assert (turn["samples"], pause["samples"], both["samples"]) == (2, 2, 4)
    assert turn["take_over_rate"] == 0.5 and turn["latency"] == pytest.approx(0.5, abs=0.05)
    assert turn["early_take_over_rate"] == 0 and turn["backchannel_frequency"] == pytest.approx(2 / (5.5 + 4), abs=0.01)
    assert pause["take_over_rate"] == 0.5 and pause["early_take_over_rate"] == 1
    assert pause["latency"] is None and pause["reason"] == "the model never answers after the user"
    assert both["take_over_rate"] == 0.5 and both["median_latency"] == turn["latency"]
    assert figures["mute"]["take_over_rate"] is None and figures["mute"]["reason"] == "the user says nothing"
    assert any("GPT-4o" in line for line in figures["not_computed"])


def test_dialogues_are_written_in_the_layout(tmp_path: Path) -> None:
    write_talk(tmp_path / "made" / "a.wav", SAMPLES["turn/1"], 10)
    write_talk(tmp_path / "made" / "three.wav", [[(1, 2)]] * 3, 5)
    first = run(tmp_path / "made", tmp_path / "out", tmp_path / "bench")
    assert {p.relative_to(tmp_path / "bench").as_posix() for p in (tmp_path / "bench").rglob("*.wav")} == {
        "a/input.wav",
        "a/output.wav",
    }
    assert [(line["dialogue"], "two channels" in line["reason"]) for line in first["skipped"]] == [("three", True)]
    original, _ = read_audio(tmp_path / "made" / "a.wav")
    for channel, name in enumerate(("input", "output")):
        written, rate = read_audio(tmp_path / "bench" / "a" / f"{name}.wav")
        assert rate == 8000 and (written[0] - original[channel]).abs().max() < 1e-3
    again = run(tmp_path / "bench", tmp_path / "again", tmp_path / "bench")
    assert again["full_duplex_bench"]["all"] == first["full_duplex_bench"]["all"]
