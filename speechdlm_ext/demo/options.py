"""What the demo is to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError


@dataclass(frozen=True)
class DemoOptions:
    """What the demo is to do; the defaults fit into 12 minutes and 4 GB on 2 cores.

    Attributes:
        out: folder for all that it makes.
        audio: two-channel recordings of one's own; None for made conversations.
        minutes: of made conversation.
        updates: of training.
        units: size of the codebook.
        prompts: held-out beginnings that are continued.
        samples: continuations of each.
        seed: of everything that is drawn.
    """

    out: Path
    audio: Path | None = None
    minutes: float = 12.0
    updates: int = 400
    units: int = 100
    prompts: int = 6
    samples: int = 2
    seed: int = 1

    segment_seconds: float = 15.0  # of what the model sees at once: prompt and continuation together
    prompt_seconds: float = 5.0
    frame_rate: int = 50  # Hz, of the log-mel units
    held_out: float = 0.17  # share of the corpus

    def __post_init__(self) -> None:
        for name in ("updates", "units", "prompts", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: at least 1 is wanted")
        if self.units < 2:
            raise InputError(f"--units {self.units}: at least 2 are wanted")

    @property
    def segment_frames(self) -> int:
        """Frames of a segment."""
        return round(self.segment_seconds * self.frame_rate)

    @property
    def save_interval(self) -> int:
        """Updates between two checkpoints: what a kill can cost."""
        return max(5, min(50, self.updates // 4))


def list_recordings(folder: Path) -> list[Any]:
    """Name, size and time of every file in ``folder`` and below: another list means other recordings.

    Raises:
        InputError: no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of recordings" + (" (a file)" if folder.exists() else ""))
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: no permission to read this folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
