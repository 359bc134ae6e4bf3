"""What a reader of audio files does."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np


class AudioReader(ABC):
    """An open audio file; a context manager.

    Args:
        path: the file.

    Attributes:
        formats: what it reads, in words.
        suffixes: of file names that a folder is searched for, in lower case.
        path: as given.
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel that there are, whatever the header says.
        copy: what is opened in the place of a part of an archive.
        notes: where the header says something else, what it says; empty otherwise.

    Raises:
        InputError: the file is not audio, or has no samples.
    """

    formats: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    sample_rate: int
    channels: int
    frames: int
    copy: Any = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.notes: list[str] = []

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate

    @classmethod
    @abstractmethod
    def opens(cls, path: str | os.PathLike[str], head: bytes) -> bool:
        """Whether a file is for this reader, by its name or its first bytes (1024, or all that there are)."""

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop``, (n, C) float32 with full scale at ±1; fewer where the file ends before.

        Raises:
            InputError: the file is damaged there.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def note_length(self, stated: int | None) -> None:
        """Note that the header states another number of samples than there are; None or 0 is none."""
        if stated == self.frames:
            return
        there = f"{self.frames / self.sample_rate:.2f} s"
        if not stated:
            self.notes.append(f"its header says no length, {there} are there")
        elif stated > self.frames:
            self.notes.append(
                f"cut off: {there} of the {stated / self.sample_rate:.2f} s that its header says are there"
            )
        else:
            self.notes.append(f"its header says {stated / self.sample_rate:.2f} s, {there} are there")

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
