"""Checkpoints of a training that was killed: whole ones only, so that it can go on."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path


def mend_checkpoints(folder: Path) -> None:
    """Remove half-written checkpoints, and put the newest whole one where fairseq-train looks for it.

    fairseq copies its newest checkpoint to ``checkpoint_best.pt`` and ``checkpoint_last.pt``; killed in between, it
    leaves a file that is cut off, which it would then refuse to load.
    """
    for path in folder.glob("*.pt*"):
        if path.suffix == ".tmp" or not zipfile.is_zipfile(path):
            path.unlink()
    last = folder / "checkpoint_last.pt"
    numbered = sorted(folder.glob("checkpoint_*_*.pt"), key=lambda p: int(re.findall(r"\d+", p.stem)[-1]))
    if not last.exists() and numbered:
        temporary = last.with_suffix(".tmp")
        shutil.copyfile(numbered[-1], temporary)
        os.replace(temporary, last)
