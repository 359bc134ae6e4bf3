"""Training that is killed, starved of disk or stopped by hand: whole files, one line, and the same end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.compat.fairseq.saving import is_whole
from tests.helpers.battery import TRANSLATION, Battery
from tests.helpers.processes import newest

pytestmark = pytest.mark.commands

UPDATES = 25
KILLS = int(os.environ.get("SPEECHDLM_KILLS", "2"))


def _start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    program = Path(sys.executable).parent / words[0]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(program), *words[1:]],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _training(battery: Battery, save_dir: Path) -> list[str]:
    data = str(battery.get("preprocess").folder)
    often = ["--max-update", str(UPDATES), "--save-interval-updates", "1", "--keep-interval-updates", "2"]
    return ["fairseq-train", data, *TRANSLATION, *often, "--save-dir", str(save_dir)]


def _wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoint_last.pt")["model"]
    return weights


@pytest.mark.long
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(
    battery: Battery, run_loaded: Any, tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run_loaded(_training(battery, undisturbed), cwd=tmp_path)
    moments = random.Random(3)
    for _ in range(KILLS):
        process = _start(_training(battery, killed), tmp_path)
        _wait_for(killed / "checkpoint_last.pt", process)
        before = newest(killed)
        while process.poll() is None and newest(killed) <= before:
            time.sleep(0.005)  # until this run, too, has saved something
        time.sleep(moments.uniform(0, 0.4))
        if process.poll() is None:  # else it was done before this process was woken
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert all(is_whole(path) for path in killed.glob("checkpoint*.pt"))
    process = _start(_training(battery, killed), tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    expected, found = _weights(undisturbed), _weights(killed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_cut_checkpoint_is_noticed_and_the_newest_whole_one_taken(
    battery: Battery, run_loaded: Any, tmp_path: Path
) -> None:
    undisturbed = load_checkpoint(battery.get("train").folder / "checkpoints" / "checkpoint_last.pt")
    data = str(battery.get("preprocess").folder)
    words = ["fairseq-train", data, *TRANSLATION, "--save-dir", str(tmp_path / "run")]
    run_loaded([*words, "--max-epoch", "2"], cwd=tmp_path)
    last = tmp_path / "run" / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    done = run_loaded([*words, "--max-epoch", "3"], cwd=tmp_path)
    assert "checkpoint_last.pt is cut off: going on from" in done.stdout
    found = _weights(tmp_path / "run")
    assert all(torch.equal(tensor, found[name]) for name, tensor in undisturbed["model"].items())

    for path in (tmp_path / "run").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-100])
    done = run_loaded([*words, "--max-epoch", "4"], cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("fairseq-train: error: ")
    assert "no whole checkpoint" in done.stderr


def test_control_c_is_one_line(battery: Battery, tmp_path: Path) -> None:
    words = [word for word in _training(battery, tmp_path / "run") if word != str(UPDATES)]
    words.insert(words.index("--max-update") + 1, "100000")
    process = _start(words, tmp_path)
    _wait_for(tmp_path / "run" / "checkpoint_last.pt", process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output[-3000:]
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1] == "fairseq-train: interrupted"
    assert is_whole(tmp_path / "run" / "checkpoint_last.pt")
