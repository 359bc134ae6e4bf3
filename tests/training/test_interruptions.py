"""Dialogue models in training, killed at any moment on one process or two: the same end, bit by bit."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
import torch

from speechdlm_ext.compat.fairseq.saving import is_whole
from tests.helpers.processes import Command, newest
from tests.helpers.training import MODEL, UPDATE, weights_in

KILLS = int(os.environ.get("SPEECHDLM_KILLS", "2"))
# New orders in each epoch, with dropout and Adam's state: there is much that could get lost.
OPTIONS = (
    "--batch-size 1 --dropout 0.1 --optimizer adam --max-update 18 --save-interval-updates 1 "
    "--keep-interval-updates 2 --disable-validation"
)


def _train(binarized: Path, folder: Path, ranks: int) -> Command:
    words = ["fairseq-train", binarized, "--save-dir", folder / "run", *MODEL, *UPDATE, *OPTIONS.split(" ")]
    return Command(words, folder, ranks)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(binarized: Path, tmp_path: Path, ranks: int) -> None:
    undisturbed = _train(binarized, tmp_path / "undisturbed", ranks)
    checkpoints = tmp_path / "killed" / "run"
    moments = random.Random(ranks)
    for _ in range(KILLS):
        before = newest(checkpoints)
        command = _train(binarized, tmp_path / "killed", ranks)
        end = time.monotonic() + 300
        while command.running and newest(checkpoints) <= before and time.monotonic() < end:
            time.sleep(0.005)  # until this run, too, has saved something
        time.sleep(moments.uniform(0, 0.3))
        command.kill()
        assert all(is_whole(path) for path in checkpoints.glob("checkpoint*.pt"))
    last = checkpoints / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    output = _train(binarized, tmp_path / "killed", ranks).wait()
    assert "checkpoint_last.pt is cut off: going on from" in output and "num_updates: 18 >= max_update: 18" in output
    undisturbed.wait()
    expected, found = weights_in(tmp_path / "undisturbed" / "run"), weights_in(checkpoints)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_run_that_had_ended_trains_no_further(binarized: Path, tmp_path: Path) -> None:
    first = _train(binarized, tmp_path, 1).wait()
    expected = weights_in(tmp_path / "run")
    again = _train(binarized, tmp_path, 1).wait()[len(first) :]
    assert "num_updates: 18 >= max_update: 18; it had ended before" in again
    found = weights_in(tmp_path / "run")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
