"""wav, flac, ogg, mp3 and whatever else libsndfile reads."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.readers.base import AudioReader

if TYPE_CHECKING:
    import numpy as np


class SndfileReader(AudioReader):
    """See :class:`AudioReader`."""

    suffixes = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".sph")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import soundfile

        super().__init__(path)
        try:
            # As bytes where names are bytes: soundfile itself refuses those that are not UTF-8.
            self._file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else os.fspath(path))
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise InputError(
                f"{path} is not audio that can be read ({reason}): convert it to wav, flac, ogg or mp3"
            ) from None
        self.sample_rate, self.channels, self.frames = self._file.samplerate, self._file.channels, self._file.frames
        problem = None
        if self.frames <= 0 or self.channels <= 0 or self.sample_rate <= 0:
            problem = "has no samples"
        elif _is_cut_off(self._file.extra_info):
            problem = "is cut off: it is shorter than its header says; copy it again"
        if problem:
            self.close()
            raise InputError(f"{path} {problem}")

    @classmethod
    def opens(cls, path: str | os.PathLike[str], head: bytes) -> bool:
        """Always: libsndfile itself says what it cannot read."""
        return True

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`AudioReader.read`."""
        import soundfile

        try:
            if start != self._file.tell():
                self._file.seek(start)
            return self._file.read(stop - start, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(
                f"{self.path} is damaged after {start / self.sample_rate:.2f} s ({error.error_string})"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_cut_off(log: str) -> bool:
    """Whether libsndfile's log of opening a file says that its end is missing.

    A wav header that was written before the length was known (a pipe) names a length near 2 or 4 GiB, and is in order.
    """
    sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if sizes and int(sizes[2]) < int(sizes[1]) < 0x7FFFF000:
        return True
    return "Junk after the last page" in log and "lacks an end-of-stream bit" in log
