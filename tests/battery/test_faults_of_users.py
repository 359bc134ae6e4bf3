"""Faults that people meet, as public reports have them: one line and status 2, at once, or the right result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.compat.checkpoints import load_checkpoint
from tests.helpers.battery import LANGUAGE_MODEL, TRANSLATION, Battery
from tests.helpers.processes import free_port

pytestmark = pytest.mark.commands


@pytest.fixture
def train(battery: Battery, run_loaded: Any, tmp_path: Path) -> Any:
    """``train("--option", …)``: a translation model for two updates an epoch, into ``run``."""
    data = str(battery.get("preprocess").folder)

    def run(*options: str, **more: Any) -> Any:
        words = ["fairseq-train", data, *TRANSLATION, "--save-dir", str(tmp_path / "run"), *options]
        return run_loaded(words, cwd=tmp_path, **{"check": False, **more})

    return run


def _assert_one_line(done: Any, *words: str) -> None:
    assert done.returncode == 2, (done.stdout + done.stderr)[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-") and ": error: " in last
    for word in words:
        assert word in last, last


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--best-checkpoint-metric", "edge_token_los"], ["edge_token_los", "loss", "ppl"]),
        (["--distributed-world-size", "2"], ["--distributed-world-size 2", "torchrun"]),
        (["--seed", str(2**64)], [f"--seed {2**64}", "4294967295"]),
        (["--seed", "-1"], ["--seed -1"]),
        (
            ["--max-source-positions", "1", "--max-target-positions", "1", "--skip-invalid-size-inputs-valid-test"],
            ["The dataset is empty"],
        ),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_options_are_refused_before_the_first_update(
    train: Any, tmp_path: Path, options: list[str], said: list[str]
) -> None:
    done = train(*options)
    _assert_one_line(done, *said)
    assert "train_inner" not in done.stdout and not list(tmp_path.glob("run/*.pt"))


def test_a_metric_that_validation_logs_changes_nothing(train: Any, tmp_path: Path) -> None:
    train("--max-update", "3", check=True)
    plain = load_checkpoint(tmp_path / "run" / "checkpoint_last.pt")["model"]
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    train("--max-update", "3", "--best-checkpoint-metric", "ppl", check=True)
    found = load_checkpoint(tmp_path / "run" / "checkpoint_last.pt")["model"]
    assert plain.keys() == found.keys() and all(bool((found[name] == plain[name]).all()) for name in plain)


def test_training_that_starts_no_process_is_no_success(train: Any, tmp_path: Path) -> None:
    port = str(free_port())
    done = train("--distributed-world-size", "2", "--distributed-init-method", f"tcp://localhost:{port}")
    _assert_one_line(done, "--distributed-world-size 2", "0", "torchrun")
    # As srun starts it on a machine without GPUs; scontrol says which hosts there are.
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "scontrol").write_text("#!/bin/sh\necho localhost\n")
    (commands / "scontrol").chmod(0o755)
    slurm = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_NTASKS": "1", "SLURM_NODEID": "0"}
    slurm["PATH"] = f"{commands}:{os.environ['PATH']}"
    _assert_one_line(train("--distributed-port", port, env=slurm), "torchrun")
    _assert_one_line(train("--distributed-port", port, env={**slurm, "SLURM_NTASKS": "3"}), "torchrun")
    del slurm["SLURM_NNODES"]
    _assert_one_line(train("--distributed-port", port, env=slurm), "torchrun")


def test_a_full_disk_is_one_line_with_the_file(train: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint1.pt.tmp").symlink_to("/dev/full")
    done = train("--max-epoch", "1")
    _assert_one_line(done, "No space left on device", str(tmp_path / "run" / "checkpoint1.pt"))
    assert not list(tmp_path.glob("run/*"))


def test_another_optimizer_is_one_line_and_another_restore_file_a_warning(train: Any, tmp_path: Path) -> None:
    done = train("--max-update", "1", "--restore-file", str(tmp_path / "none.pt"), check=True)
    assert f"--restore-file {tmp_path / 'none.pt'}: no such checkpoint" in done.stdout + done.stderr
    _assert_one_line(train("--max-update", "2", "--optimizer", "sgd"), "Optimizer does not match", "--reset-optimizer")


def test_the_last_update_of_an_epoch_is_saved_as_an_interval_too(train: Any, tmp_path: Path) -> None:
    train("--max-epoch", "1", check=True)
    epoch = load_checkpoint(tmp_path / "run" / "checkpoint1.pt")
    updates = epoch["optimizer_history"][-1]["num_updates"]
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    options = ["--save-interval-updates", str(updates), "--keep-interval-updates", "3", "--no-epoch-checkpoints"]
    train("--max-epoch", "2", *options, check=True)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    intervals = {f"checkpoint_1_{updates}.pt", f"checkpoint_2_{2 * updates}.pt"}
    assert names == {"checkpoint_best.pt", "checkpoint_last.pt", *intervals}
    saved = load_checkpoint(tmp_path / "run" / f"checkpoint_1_{updates}.pt")
    assert saved["extra_state"]["train_iterator"] == epoch["extra_state"]["train_iterator"]
    assert all(bool((saved["model"][name] == epoch["model"][name]).all()) for name in epoch["model"])


def test_a_users_own_fault_keeps_its_traceback(train: Any, tmp_path: Path) -> None:
    plugin = tmp_path / "my_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("def read():\n    return open('/nonexistent/mine')\n\nread()\n")
    done = train("--user-dir", str(plugin))
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "in read" in done.stderr and "/nonexistent/mine" in done.stderr
    done = train("--user-dir", str(tmp_path / "none"), env={"SPEECHDLM_TRACEBACK": "1"})
    assert done.returncode == 1 and "Traceback" in done.stderr and "no such folder" in done.stderr


def test_dictionaries_of_other_systems(battery: Battery, run_loaded: Any, tmp_path: Path) -> None:
    (tmp_path / "text.src").write_text("1 2 3\n3 2 1\n")

    def preprocess(dictionary: str) -> Any:
        (tmp_path / "dict.txt").write_text(dictionary, encoding="utf-8")
        words = ["fairseq-preprocess", "--only-source", "--source-lang", "src", "--trainpref", str(tmp_path / "text")]
        words += ["--srcdict", str(tmp_path / "dict.txt"), "--destdir", str(tmp_path / "bin")]
        return run_loaded(words, cwd=tmp_path, check=False)

    for dictionary in ("1 5\n2 5\n3 5\n", "1 5\n2 5\n3 5\n\n\n", "\ufeff1 5\r\n2 5\r\n3 5\r\n \r\n"):
        done = preprocess(dictionary)
        assert done.returncode == 0, done.stderr[-2000:]
        assert (tmp_path / "bin" / "dict.src.txt").read_text() == "1 5\n2 5\n3 5\n"
    _assert_one_line(preprocess("1\n2\n"), str(tmp_path / "dict.txt"), "Incorrect dictionary format")


def test_language_models_know_their_metrics(battery: Battery, run_loaded: Any, tmp_path: Path) -> None:
    data = str(battery.get("preprocess").folder)
    words = ["fairseq-train", data, *LANGUAGE_MODEL, "--save-dir", str(tmp_path / "run"), "--max-update", "1"]
    words += ["--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"]
    done = run_loaded(words, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
