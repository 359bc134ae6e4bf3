"""The battery is shared by all its tests, whatever process of pytest they run in: each command runs once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.battery import Battery


@pytest.fixture(scope="session")
def battery(
    run_command: Any, run_loaded: Any, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Battery]:
    """Every stock command, run once on a small corpus."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "battery"
    folder.mkdir(exist_ok=True)
    made = Battery(run_command, run_loaded, folder, checkout / "speechdlm_ext")
    yield made
    made.close()


@pytest.fixture(params=[False, True], ids=["stock", "user-dir"])
def user_dir(request: pytest.FixtureRequest) -> bool:
    """Whether the command was given ``--user-dir speechdlm_ext``."""
    return bool(request.param)
