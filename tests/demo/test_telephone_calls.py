"""The demo's own commands on a folder of two-channel .sph calls, up to the units of both channels."""

from __future__ import annotations

import argparse
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from speechdlm_ext.demo.run import steps
from speechdlm_ext.io.manifest import read_jsonl
from tests.helpers.sphere import conversation, to_ulaw, write_fisher, write_sphere

pytestmark = pytest.mark.commands


def test_calls_become_units(tmp_path: Path, checkout: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    write_fisher(calls / "fe_03_00001.sph", conversation(6))
    call = conversation(6, seed=2)
    write_sphere(calls / "sw02001.sph", to_ulaw(call).tobytes(), len(call), "ulaw", 1, "1")
    options = argparse.Namespace(
        audio=calls, output=tmp_path / "demo", seed=1, num_units=8, updates=1, prompts=1, samples=1
    )
    for step in islice(steps(options), 3):
        subprocess.run(step.command, cwd=checkout, check=True, capture_output=True)
    assert [row["channels"] for row in read_jsonl(tmp_path / "demo/corpus/manifest.jsonl")] == [2, 2]
    rows = [row for row in read_jsonl(tmp_path / "demo/units.jsonl") if "speed" not in row["audio"]]
    assert [row["audio"] for row in rows] == ["fe_03_00001", "sw02001"]
    for row in rows:  # the channels take turns: their units differ in nearly all frames in which one speaks
        first, second = row["unitA"].split(), row["unitB"].split()
        assert len(first) == len(second) == 300 and sum(a != b for a, b in zip(first, second, strict=True)) > 150
