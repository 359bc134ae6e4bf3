"""Readers of audio files, one for a family of formats; a new one is a file here and a line in the list."""

from __future__ import annotations

import os

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.readers.base import AudioReader
from speechdlm_ext.io.readers.libsndfile import SndfileReader

# The first whose ``opens`` is true opens a file.
READERS: tuple[type[AudioReader], ...] = (SndfileReader,)
# By which a folder is searched for recordings.
SUFFIXES: tuple[str, ...] = tuple(dict.fromkeys(suffix for reader in READERS for suffix in reader.suffixes))
_HEAD_BYTES = 1024


def open_audio(path: str | os.PathLike[str]) -> AudioReader:
    """Open an audio file; a context manager.

    Raises:
        InputError: the file is missing, a folder, unreadable, not audio, cut off, or has no samples.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder, expected an audio file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise InputError(f"{path} is empty (0 bytes)")
    for reader in READERS:
        if reader.opens(path, head):
            return reader(path)
    raise InputError(f"{path} is not audio that can be read")
