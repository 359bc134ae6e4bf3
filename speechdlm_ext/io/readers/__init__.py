"""Readers of audio files, one for a family of formats; a new one is a file here and a line in the list."""

from __future__ import annotations

import os
import tempfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.readers.base import AudioReader
from speechdlm_ext.io.readers.ffmpeg import FfmpegReader, find_ffmpeg
from speechdlm_ext.io.readers.libsndfile import SndfileReader
from speechdlm_ext.io.readers.sphere import SphereReader
from speechdlm_ext.io.shar import Part, parse_part

# The first whose ``opens`` is true opens a file.
READERS: tuple[type[AudioReader], ...] = (SphereReader, FfmpegReader, SndfileReader)
# Of sound and video, by which a folder is searched for recordings.
SUFFIXES: tuple[str, ...] = tuple(dict.fromkeys(suffix for reader in READERS for suffix in reader.suffixes))
_HEAD_BYTES = 1024
_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"NIST_1A", b"caff", b".snd", b"ID3", b"riff\x2e\x91")


def is_audio(path: str | os.PathLike[str]) -> bool:
    """Whether a file is sound or video by its name, or else by its first bytes."""
    if os.fspath(path).lower().endswith(SUFFIXES):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] not in (b"WAVE", b"AVI "):
        return False
    if head[:4] == b"FORM" and head[8:11] != b"AIF":
        return False
    return head.startswith(_MAGIC) or head[4:8] == b"ftyp"


def open_audio(path: str | os.PathLike[str]) -> AudioReader:
    """Open an audio file, or one in an archive (:mod:`.shar`); a context manager.

    Raises:
        InputError: the file is missing, a folder, unreadable, not audio, or has no samples.
    """
    if not os.path.exists(path):
        if part := parse_part(path):
            return _open_part(part)
        raise InputError(f"{path}: no such file")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder, expected an audio file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise InputError(f"{path} is empty (0 bytes)")
    kind = next(reader for reader in READERS if reader.opens(path, head))
    try:
        return kind(path)
    except InputError:
        if kind is not SndfileReader or find_ffmpeg() is None or not head.startswith(_MAGIC):
            raise
        try:  # what libsndfile does not know within formats that it does
            return FfmpegReader(path)
        except InputError:
            pass
        raise


def _open_part(part: Part) -> AudioReader:
    """Open a file in an archive, by a copy that is there as long as the reader is."""
    copy = tempfile.NamedTemporaryFile(suffix=os.path.splitext(part.name)[1])  # noqa: SIM115
    copy.write(part.read())
    copy.flush()
    try:
        reader = open_audio(copy.name)
    except InputError as error:
        raise InputError(str(error).replace(copy.name, part.path)) from None
    reader.path, reader.copy = part.path, copy
    return reader
