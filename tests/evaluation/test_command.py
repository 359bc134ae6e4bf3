"""The command as a user runs it: on real calls, and on what the demo makes, with all that goes with it."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.hub import load_speech_dlm
from speechdlm_ext.hub.sample_file import continue_unit_file
from speechdlm_ext.io.manifest import read_jsonl, write_jsonl
from tests.helpers.commands import RunCommand
from tests.helpers.dialogue_checkpoints import write_checkpoint
from tests.helpers.talks import take_turns, write_talk

COMMAND = ["python", "scripts/evaluate_dialogue.py"]
PROMPT, TOTAL = 150, 500  # frames


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model, recordings with their units, and two continuations of a prompt of each, as the demo leaves them."""
    folder = write_checkpoint(tmp_path_factory.mktemp("demo"))
    recordings, units, prompts = [], [], []
    for number in range(3):
        name, talk = f"talk{number}", take_turns(number, 20.0, 1.0 + number / 2)
        path = write_talk(folder / "corpus" / f"{name}.wav", talk, 20.0, seed=number)
        recordings.append({"id": name, "audio_filepath": str(path), "duration": 20.0, "channels": 2})
        row = {"audio": name}
        for channel, stretches in zip(("unitA", "unitB"), talk, strict=True):
            frames = np.zeros(1000, int)
            for start, end in stretches:
                part = frames[round(50 * start) : round(50 * end)]
                part[:] = 1 + np.arange(len(part)) // 3 % 19
            row[channel] = " ".join(map(str, frames))
        units.append(row)
        cut = {channel: " ".join(row[channel].split()[100 : 100 + PROMPT]) for channel in ("unitA", "unitB")}
        prompts.append({"audio": f"{name}-0000100", "recording": name, "start": 2.0, "prompt_frames": PROMPT, **cut})
    write_jsonl(folder / "corpus" / "manifest.jsonl", recordings)
    write_jsonl(folder / "units.jsonl", units)
    write_jsonl(folder / "prompts.jsonl", prompts)
    model = load_speech_dlm(folder, "model.pt", folder).eval()
    options = DecodingOptions(beam=1, sampling=True, sampling_topp=0.9, max_len_b=TOTAL, min_len=TOTAL)
    continue_unit_file(model, folder / "prompts.jsonl", folder / "samples.jsonl", options, seed=1, samples=2)
    for number, row in enumerate(read_jsonl(folder / "samples.jsonl")):
        seconds = len(row["unitA"].split()) / 50
        write_talk(folder / "samples" / f"{row['audio']}.wav", take_turns(9 + number, seconds, 1.5), seconds)
    return folder


def numbers(value: Any, name: str = "") -> Iterator[str]:
    """Names of all numbers, those in lists under the name of the list; quantiles are named by shares."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, name if name == "quantiles" else key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, (int, float)):
        yield name


def test_on_what_the_demo_makes(demo: Path, tmp_path: Path, run_command: RunCommand, checkout: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, demo / "samples", "--units", demo / "samples.jsonl", "--output", out, "--vad", "energy",
               "--reference", demo / "corpus" / "manifest.jsonl", "--reference-units", demo / "units.jsonl",
               "--prompts", demo / "samples.jsonl", "--checkpoint", demo / "model.pt", "--data", demo,
               "--full-duplex-bench", tmp_path / "bench", "--num-workers", "1", "--resamples", "50"]  # fmt: skip
    done = run_command(command, cwd=checkout)
    assert done.stdout.split() == [str(out / name) for name in ("metrics.json", "metrics.csv", "index.html")]
    result = json.loads((out / "metrics.json").read_text())
    assert result["skipped"] == [] and result["generated"]["conversations"] == 6
    samples = read_jsonl(demo / "samples.jsonl")
    frames = [len(row["unitA"].split()) for row in samples]
    assert len(samples) == 6 and min(frames) > 2 * PROMPT
    assert result["generated"]["minutes"] == pytest.approx(sum(f - PROMPT for f in frames) / 3000)
    assert result["generated"]["units"]["all"]["frames"] == 2 * sum(f - PROMPT for f in frames)
    assert result["reference"]["units"]["A"]["frames"] == 3 * 1000
    assert result["correlation"]["ipu"]["n"] == 3 and -1 <= result["correlation"]["ipu"]["r"] <= 1
    for side in ("generated", "reference"):
        assert result[side]["likelihood"]["all"]["edges"] > 100 and result[side]["likelihood"]["all"]["edge_bits"] > 0
    assert result["full_duplex_bench"]["all"]["samples"] == 6
    assert len(list((tmp_path / "bench").glob("*/output.wav"))) == 6
    parts = {"generated", "reference", "distance", "split_half", "correlation", "full_duplex_bench"}
    known = {key for figures in result["schema"].values() for key in figures}
    assert {name for part in parts for name in numbers(result[part])} <= known
    with open(out / "metrics.csv", newline="") as file:
        assert [row["dialogue"] for row in csv.DictReader(file)][2:8] == sorted(row["audio"] for row in samples)
    text = (out / "index.html").read_text(encoding="utf-8")
    timelines = [json.loads(part) for part in re.findall(r'id="dialogue-\d+"[^>]*>(.*?)</script>', text)]
    assert len(timelines) == 9 and {row["lead"] for row in timelines} == {PROMPT / 50, 0}


def test_on_real_calls(
    data: Path, tmp_path: Path, run_command: RunCommand, run_loaded: RunCommand, checkout: Path
) -> None:
    """Real calls by silero, all cores, as a user runs it; then what a user may do wrong."""
    calls = data / "speech" / "calls"
    for name in ("google_two_channel.flac", "azure_katiesteve.ogg"):
        (tmp_path / "calls").mkdir(exist_ok=True)
        (tmp_path / "calls" / name).symlink_to(calls / name)
    done = run_command([*COMMAND, tmp_path / "calls", "--reference", tmp_path / "calls", "--output", tmp_path / "out",
                        "--num-workers", "2"], cwd=checkout)  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / "out" / n) for n in ("metrics.json", "metrics.csv", "index.html")]
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["activity"]["method"] == "silero" and result["activity"]["frame_shift"] == 0.032
    assert result["distance"]["ipu"]["per_minute"] == result["distance"]["ipu"]["wasserstein"] == 0
    assert 5 < result["generated"]["ipu"]["per_minute"] < 60 and math.isclose(
        result["generated"]["minutes"], 0.44, abs_tol=0.05
    )
    assert (tmp_path / "out" / "index.html").read_text(encoding="utf-8").count("<h2") >= 4
    wrong = run_loaded([*COMMAND, tmp_path / "calls", "--output", tmp_path / "out", "--asr",
                         f"torchaudio:WAV2VEC2_ASR_BASE_960H={tmp_path}/none.pth"],
                        cwd=checkout, check=False)  # fmt: skip
    assert wrong.returncode == 2 and "the weights of WAV2VEC2_ASR_BASE_960H are missing" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
