"""NIST SPHERE, as LDC's corpora come: PCM, µ-law and A-law by libsndfile, those compressed by shorten by desphere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache
from typing import TYPE_CHECKING

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.readers.base import AudioReader
from speechdlm_ext.io.readers.view import FileView

if TYPE_CHECKING:
    import numpy as np

_CODINGS = {"pcm": "PCM", "ulaw": "ULAW", "mu-law": "ULAW", "mulaw": "ULAW", "alaw": "ALAW", "a-law": "ALAW"}
_FIELD = re.compile(rb"^\s*(\w+)\s+-(?:i|r|s\d*)\s+(.*?)\s*$", re.MULTILINE)
_PADDING = 1024  # bytes behind the samples that are none
_BLOCK = 256  # samples of shorten's last block, which may be filled up


class SphereReader(AudioReader):
    """See :class:`AudioReader`. Compressed files are decoded whole when they are opened; the last one is kept."""

    formats = "NIST SPHERE (PCM, µ-law, A-law, shorten)"
    suffixes = (".sph", ".nist", ".wv1", ".wv2")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        with open(path, "rb") as file:
            head = file.read(1024)
            size = int(head[8:16]) if head[8:16].strip().isdigit() else 1024
            head += file.read(max(0, size - 1024))
        fields = {name.decode(): value.decode(errors="replace") for name, value in _FIELD.findall(head[:size])}
        try:
            self.sample_rate = round(float(fields["sample_rate"]))
            self.channels = int(fields.get("channel_count", "1"))
            stated = int(fields.get("sample_count", "0"))
        except (KeyError, ValueError):
            raise InputError(f"{path} is a SPHERE file whose header is damaged: no sample_rate in it") from None
        if self.sample_rate < 1 or self.channels < 1:
            raise InputError(f"{path} is a SPHERE file of {self.channels} channels at {self.sample_rate} Hz")
        coding, _, packing = fields.get("sample_coding", "pcm").lower().partition(",")
        self._samples: np.ndarray | None = None
        if packing.strip():
            status = os.stat(path)
            self._samples = _unpack(os.fspath(path), size, status.st_size, status.st_mtime_ns)
            if self._samples.shape[1] != self.channels:
                raise InputError(f"{path}: {self._samples.shape[1]} channels, its header says {self.channels}")
            self.frames = len(self._samples)
            if 0 < self.frames - stated < _BLOCK:
                self.frames = stated
        else:
            self._open(coding, fields, size, stated)
        self.note_length(stated)
        if not self.frames:
            self.close()
            raise InputError(f"{path} has no samples")

    @classmethod
    def opens(cls, path: str | os.PathLike[str], head: bytes) -> bool:
        """Files that begin as SPHERE files do."""
        return head[:7] == b"NIST_1A"

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`AudioReader.read`."""
        import numpy as np

        if self._samples is not None:
            return self._samples[start : min(stop, self.frames)].astype(np.float32) / 32768
        if start != self._file.tell():
            self._file.seek(start)
        return self._file.read(max(0, min(stop, self.frames) - start), dtype="float32", always_2d=True)

    def close(self) -> None:
        """Close the file."""
        if self._samples is None:
            self._file.close()
            self._view.close()

    def _open(self, coding: str, fields: dict[str, str], start: int, stated: int) -> None:
        """The samples as libsndfile reads them without a header."""
        import soundfile

        width = int(fields.get("sample_n_bytes", "1" if coding != "pcm" else "2"))
        kind = _CODINGS.get(coding.strip())
        subtype = {"PCM": {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}.get(width)}.get(kind or "", kind)
        if subtype is None:
            raise InputError(f"{self.path}: SPHERE coding {coding!r} of {width} bytes is not known: sph2pipe -f wav")
        end = os.path.getsize(self.path)
        block = width * self.channels
        if 0 < end - start - stated * block < _PADDING:
            end = start + stated * block
        self.frames = max(0, end - start) // block
        self._view = FileView(self.path, [(start, start + self.frames * block)])
        endian = "BIG" if fields.get("sample_byte_format") == "10" else "LITTLE"
        self._file = soundfile.SoundFile(self._view, "r", self.sample_rate, self.channels, subtype, endian, "RAW")


@lru_cache(maxsize=1)
def _unpack(path: str, start: int, size: int, modified: int) -> np.ndarray:
    """The samples (N, C) of a file compressed by shorten, int16, of one that is cut off those of its whole blocks;
    ``size`` and ``modified`` tell it from others.
    """
    with open(path, "rb") as file:
        file.seek(start)
        packed = file.read()
    try:
        import desphere
    except ImportError:
        if shutil.which("sph2pipe"):
            return _by_sph2pipe(path)
        raise InputError(
            f"{path} is compressed by shorten: pip install 'speechdlm_ext[audio]' (desphere), or convert it: "
            "sph2pipe -p -f wav"
        ) from None
    damage = ""
    for _ in range(2):
        try:
            return _decode(packed)
        except (desphere.DesphereError, ValueError) as error:
            from speechdlm_ext.io.readers.shorten import whole_part

            damage = damage or one_line(error)
            packed = whole_part(packed) or b""
    raise InputError(f"{path} is cut off or damaged ({damage}): copy it again")


def _decode(packed: bytes) -> np.ndarray:
    import desphere
    import numpy as np

    if desphere.native_available():
        import desphere_native

        channels, _, content = desphere_native.shorten_to_pcm(packed)
        return np.frombuffer(bytes(content), "<i2").reshape(-1, channels)
    values, kind, channels = desphere.shorten.decode(packed)
    samples = np.array(values)
    if kind == "ulaw":
        return np.array(desphere.g711.ULAW_TABLE, np.int16)[samples].reshape(-1, channels)
    return samples.clip(-32768, 32767).astype(np.int16).reshape(-1, channels)


def _by_sph2pipe(path: str) -> np.ndarray:
    import io

    import soundfile

    done = subprocess.run(["sph2pipe", "-p", "-f", "wav", path], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise InputError(f"{path}: sph2pipe: {done.stderr.decode(errors='replace').strip()[:200]}")
    samples: np.ndarray = soundfile.read(io.BytesIO(done.stdout), dtype="int16", always_2d=True)[0]
    return samples
