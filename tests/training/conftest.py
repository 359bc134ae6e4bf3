"""A tiny corpus whose rows differ in length and in how many edges they have, and training on it in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.training import ROWS, Weights, train_here, weights_in, write_rows


@pytest.fixture(scope="session")
def binarized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Binarized data: four training rows, and five for validation."""
    from speechdlm_ext.data.binarization import binarize

    folder = tmp_path_factory.mktemp("training")
    write_rows(folder / "train")
    write_rows(folder / "valid", (*ROWS, (5, 2)), seed=1)
    binarize({split: str(folder / split) for split in ("train", "valid")}, folder / "bin", dictionary="joined")
    return folder / "bin"


@pytest.fixture(scope="session")
def trained(binarized: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Weights]:
    """``trained("--option", …)``: the weights after one update; kept for the next test."""

    @cache
    def run(*options: str) -> Weights:
        folder = tmp_path_factory.mktemp("trained")
        train_here(binarized, folder, "--disable-validation", "--max-update", "1", *options)
        return weights_in(folder)

    return run


@pytest.fixture(scope="session")
def start(trained: Callable[..., Weights]) -> Callable[..., Weights]:
    """``start("--option", …)``: the weights before the first update."""
    return lambda *options: trained("--batch-size", "4", "--lr", "0", *options)
