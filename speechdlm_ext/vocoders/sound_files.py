"""Wav files, and the log that says what they were made of; they are written by a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.io.recordings import stamp
from speechdlm_ext.io.resume_log import ResumeLog

_WAITING = 2  # sounds that wait to be written: more would only take memory


class SoundWriter:
    """Writes wav files while the next sound is made; at the end of the context all are written.

    A file takes the place of an earlier one, if any, at once. The log gets its entry before the file appears: the other
    way round, a kill in between would leave a file unaccounted for. The entry names the earlier file, which it does not
    vouch for.

    Args:
        log: of what the files are made of.
        rate: of the sound, in Hz.
        say: told where the sound had to be turned down.
    """

    def __init__(self, log: ResumeLog, rate: int, say: Callable[[str], object]) -> None:
        self._log, self._rate, self._say = log, rate, say
        self._thread = ThreadPoolExecutor(1, "wav-writer")
        self._waiting: deque[Future[None]] = deque()

    def write(self, name: str, source: Any, path: Path, sound: torch.Tensor) -> None:
        """Have a wav file written.

        Args:
            name: of the log's entry.
            source: what the sound was made of, in values that JSON can hold.
            path: the wav file.
            sound: (C, N), full scale at ±1; not to be changed any more.

        Raises:
            InputError, OSError: as :func:`.write_audio`, of an earlier file; what it was to replace is still there.
        """
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        before = stamp(str(path))
        self._log.add(name, {"source": source, "instead_of": before} if before else source)
        self._waiting.append(self._thread.submit(self._write, path, sound))

    def _write(self, path: Path, sound: torch.Tensor) -> None:
        gain = write_audio(path, sound, self._rate)
        if gain < 1:
            self._say(f"{path}: turned down to {gain:.2f} of its level, to stay within full scale")

    def __enter__(self) -> SoundWriter:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._thread.shutdown(wait=True)
        while kind is None and self._waiting:
            self._waiting.popleft().result()


def is_made(path: Path, source: Any, entry: Any, overwrite: bool) -> bool:
    """Whether the wav file is there, made of ``source``, by the journal's entry for it (None where it has none).

    Raises:
        InputError: another file is there, and it is not to be overwritten.
    """
    if not path.exists():
        return False
    if isinstance(entry, dict) and "instead_of" in entry:
        entry = entry.get("source") if entry["instead_of"] != stamp(str(path)) else None
    if entry == source:
        return True
    if not overwrite:
        raise InputError(f"{path} exists already, from other input or settings: pass --overwrite")
    return False
