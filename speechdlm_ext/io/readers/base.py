"""What a reader of audio files does."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np


class AudioReader(ABC):
    """An open audio file; a context manager.

    Args:
        path: the file.

    Attributes:
        suffixes: of file names that a folder is searched for, in lower case.
        path: as given.
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel.

    Raises:
        InputError: the file is not audio, cut off, or has no samples.
    """

    suffixes: ClassVar[tuple[str, ...]]
    sample_rate: int
    channels: int
    frames: int

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

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

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
