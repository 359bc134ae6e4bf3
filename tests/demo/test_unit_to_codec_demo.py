"""DP-SLM's chain by one command, on spoken digits: it ends with a table of all roads, and does nothing twice."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.io.manifest import read_jsonl

ROADS = ("recordings | |", "acoustic | 10 | 0", "codec | 20 | 0", "hifigan | 10 | 0", "inversion | 10 | 0")


@pytest.mark.long
def test_the_demo_trains_resynthesizes_and_recognises(tmp_path: Path, checkout: Path, run_command: Any) -> None:
    pytest.importorskip("espeakng_loader")
    command = ["python", checkout / "scripts" / "demo_unit_to_codec.py", "--output", tmp_path / "out"]
    command += shlex.split("--strings 12 --test-strings 2 --codes 20 --pairs k10-l0 --updates 3 --hifigan-updates 2")
    command += shlex.split("--asr-strings 40 --asr-updates 2")
    done = run_command(command)
    for road in ROADS:
        assert f"| {road}" in done.stdout, done.stdout
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "recognised").rglob("*.wav")}
    assert len(made) == 10
    voices = {
        name: {row["speaker"] for row in read_jsonl(tmp_path / "out" / name)}
        for name in ("asr/corpus/train.json", "digits/valid.json")
    }
    assert len(voices["asr/corpus/train.json"]) > 5 and voices["digits/valid.json"] == {"en-us"}
    assert "en-us" not in voices["asr/corpus/train.json"]  # the recogniser has not been trained on the voice it judges
    again = run_command(command)
    assert again.stdout.count("done before") > 10
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())


def test_recordings_without_a_test_set_are_one_line(checkout: Path, run_command: Any, tmp_path: Path) -> None:
    command = ["python", checkout / "scripts" / "demo_unit_to_codec.py", tmp_path / "speaker.jsonl"]
    done = run_command(command, check=False)
    assert done.returncode == 2 and done.stderr.startswith("demo_unit_to_codec.py: error: TEST is missing"), done.stderr
    assert len(done.stderr.splitlines()) == 1
