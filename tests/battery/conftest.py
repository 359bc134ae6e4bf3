"""The battery is shared by all its tests: each command runs once in a process of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.battery.steps import Battery


@pytest.fixture(scope="session")
def battery(run_command: Any, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Battery]:
    """Every stock command, run once on a small corpus."""
    made = Battery(run_command, tmp_path_factory.mktemp("battery"), checkout / "speechdlm_ext")
    yield made
    made.close()


@pytest.fixture(params=[False, True], ids=["stock", "user-dir"])
def user_dir(request: pytest.FixtureRequest) -> bool:
    """Whether the command was given ``--user-dir speechdlm_ext``."""
    return bool(request.param)
