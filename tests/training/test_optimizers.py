"""fairseq-train with the optimizer and a schedule of this package: what is resumed ends as what ran through."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.helpers.training import train_here, weights_in

OPTIONS = shlex.split(
    "--disable-validation --batch-size 4 --optimizer novograd --novograd-betas (0.8,0.5) --weight-decay 0.001 "
    "--lr-scheduler cosine_annealing --warmup-updates 1 --max-update 4 --lr 0.05"
)


@pytest.mark.long
def test_novograd_and_cosine_resume_where_they_stopped(binarized: Path, tmp_path: Path) -> None:
    """One batch an epoch."""
    train_here(binarized, tmp_path / "whole", *OPTIONS)
    train_here(binarized, tmp_path / "resumed", *OPTIONS, "--max-epoch", "2")
    stopped = weights_in(tmp_path / "resumed")
    train_here(binarized, tmp_path / "resumed", *OPTIONS)
    whole, resumed = (weights_in(tmp_path / name) for name in ("whole", "resumed"))
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert any((whole[name] != stopped[name]).any() for name in whole)
