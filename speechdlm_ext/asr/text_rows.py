"""Rows of a manifest with and without a text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechdlm_ext.io.recordings import audio_paths, checked_lines


def has_text(row: Mapping[str, Any]) -> bool:
    """Whether a row has a text, which may be empty: nobody spoke."""
    return row.get("text") is not None


def text_base(manifest: str | os.PathLike[str]) -> Path:
    """Where results for a manifest that is to be changed in place are kept until they are in it."""
    return Path(f"{os.fspath(manifest)}.text")


def without_text(manifest: str | os.PathLike[str]) -> Iterator[str]:
    """The audio files (several of a row joined by commas) of the rows of a manifest that have no text."""
    for line in checked_lines(manifest):
        if not has_text(line.row):
            yield ", ".join(audio_paths(line.row))
