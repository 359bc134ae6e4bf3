"""A SLURM of two nodes, and a folder to submit in that is like a checkout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import slurm
from tests.helpers.commands import CHECKOUT


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm.Cluster]:
    if lacking := slurm.missing():
        pytest.skip(lacking)
    with slurm.Cluster(nodes=2) as started:
        yield started


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where jobs are submitted: scripts and the environment are there; what is written stays out of the checkout."""
    for name in ("scripts", "data_prep", "configs", "speechdlm_ext"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "logs").mkdir()
    return tmp_path
