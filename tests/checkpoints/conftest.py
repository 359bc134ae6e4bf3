"""A toy checkpoint that the tests of the hub share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.dialogue_checkpoints import toy_lines, write_checkpoint


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-channel checkpoint ``model.pt``, another ``other.pt``, dictionaries and a validation set."""
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(folder, "other.pt", seed=1)
    return write_checkpoint(folder, lines=toy_lines(2, [20, 9, 31]))
