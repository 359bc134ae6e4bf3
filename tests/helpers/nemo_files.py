"""``.nemo`` files that are like another one, but for a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from speechdlm_ext.io.nemo import NemoFile, read_nemo, write_nemo


def changed(source: Path, path: Path, change: Callable[[NemoFile], object]) -> Path:
    """Write a copy to which this was done."""
    file = read_nemo(source)
    change(file)
    write_nemo(path, file.config, file.weights, file.files)
    return path
