"""Two processes make the update of one, and see the same validation figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import Command
from tests.helpers.training import EVERYTHING, MODEL, UPDATE, Weights, difference, weights_in

ONCE = ["--disable-validation", "--max-update", "1"]
CASES = {
    "everything": (
        ["--batch-size", "2", "--ddp-backend", "legacy_ddp", *EVERYTHING],
        ["--batch-size", "4", *EVERYTHING],
    ),
    # Five batches: of the three in its update, the second process has two and a stand-in.
    "stand-in": (
        ["--train-subset", "valid", "--batch-size", "1", "--update-freq", "3"],
        ["--train-subset", "valid", "--batch-size", "5"],
    ),
}


def train_on_two(binarized: Path, folder: Path, *options: str) -> Command:
    return Command(
        ["fairseq-train", binarized, "--save-dir", folder / "run", *MODEL, *UPDATE, *options], folder, ranks=2
    )


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_update_of_one(
    binarized: Path, tmp_path: Path, trained: Callable[..., Weights], start: Callable[..., Weights], case: str
) -> None:
    """Each has other rows: one of them in 21 frames as many edges as the other in 70."""
    apart, together = CASES[case]
    command = train_on_two(binarized, tmp_path, *ONCE, *apart)
    expected = trained(*together)
    begun = start(*(EVERYTHING if case == "everything" else []))
    command.wait()
    assert difference(weights_in(tmp_path / "run"), expected, begun) < 1e-5


@pytest.mark.long
def test_validation_is_the_same_for_every_number_of_processes(binarized: Path, tmp_path: Path) -> None:
    """Five rows on two processes: one has a row less. Batch sizes and workers differ, too."""
    train = train_on_two(binarized, tmp_path, "--max-update", "1", "--batch-size", "2", "--log-format", "json").wait()
    words = [
        "fairseq-validate",
        binarized,
        "--task",
        "speech_dlm_task",
        "--path",
        tmp_path / "run" / "checkpoint_last.pt",
    ]
    words += ["--cpu", "--log-format", "json"]
    commands = [
        Command([*words, "--batch-size", "1", "--num-workers", "1"], tmp_path / "two", ranks=2),
        Command([*words, "--max-tokens", "64", "--num-workers", "0"], tmp_path / "one"),
        Command([*words, "--batch-size", "5", "--num-workers", "2"], tmp_path / "large"),
    ]
    figures = [validated(output) for output in (train, *(command.wait() for command in commands))]
    assert len(figures[0]) >= 14 and float(figures[0]["valid_loss"]) > 1
    assert all(found == figures[0] for found in figures[1:])


def validated(output: str) -> dict[str, Any]:
    """The last logged validation figures that are the model's."""
    logged = json.loads(re.findall(r"\| valid \| (\{.*\})", output)[-1])
    return {name: value for name, value in logged.items() if re.search(r"edge_|_loss$", name) and "best" not in name}
