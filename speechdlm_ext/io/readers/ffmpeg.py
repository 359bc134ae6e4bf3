"""m4a, AAC, WebM, video and the like, by the program ffmpeg."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from typing import TYPE_CHECKING

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.readers.base import AudioReader

if TYPE_CHECKING:
    import numpy as np

_AUDIO = re.compile(
    r"Stream #\d+:\d+.*?: Audio: (\S+).*?, (\d+) Hz, (?:(mono)|(stereo)|(\d+) channels|([\d.]+)(?:\(\w+\))?)"
)
_LAYOUTS = {
    "2.1": 3,
    "3.0": 3,
    "3.1": 4,
    "4.0": 4,
    "4.1": 5,
    "5.0": 5,
    "5.1": 6,
    "6.0": 6,
    "6.1": 7,
    "7.0": 7,
    "7.1": 8,
}


class FfmpegReader(AudioReader):
    """See :class:`AudioReader`. A file is decoded once, into a temporary one, as the places that ffmpeg seeks to are
    not exact in all formats; the last files are kept.
    """

    formats = (
        "AAC, ALAC, AC-3, WMA, AMR and others in MP4, WebM, Matroska, MPEG, AVI, …, of video the first sound track"
    )
    suffixes = (
        ".m4a", ".aac", ".mp4", ".webm", ".mkv", ".mka", ".mov", ".avi", ".wma", ".wmv", ".asf", ".amr", ".3gp", ".3g2",
        ".m4b", ".m4v", ".mpg", ".mpeg", ".spx", ".ac3", ".eac3", ".dts", ".ape", ".tta", ".wv", ".mpc",
        ".flv", ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".ogm", ".ra", ".rm", ".weba", ".adts", ".alac", ".awb", ".gsm",
        ".shn", ".oma", ".dsf", ".dff", ".m4r", ".f4v",
    )  # fmt: skip

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        program = find_ffmpeg()
        if program is None:
            name = os.path.splitext(os.fspath(path))[0]
            raise InputError(
                f"{path} cannot be read without ffmpeg: pip install 'speechdlm_ext[audio]', or convert it: "
                f"ffmpeg -i {path} {name}.wav"
            )
        status = os.stat(path)
        decoded = _decode(program, os.fspath(path), status.st_size, status.st_mtime_ns)
        self.sample_rate, self._samples, stated = decoded
        self.frames, self.channels = self._samples.shape
        if stated and abs(stated - self.frames / self.sample_rate) > max(0.2, 0.05 * stated):  # it is often an estimate
            self.note_length(round(stated * self.sample_rate))

    @classmethod
    def opens(cls, path: str | os.PathLike[str], head: bytes) -> bool:
        """By the first bytes of MP4, Matroska, ADTS, ASF, AVI, FLV, AMR and MPEG streams, or by the name."""
        known = (
            b"\x1aE\xdf\xa3",
            b"0&\xb2u\x8ef\xcf\x11",
            b"FLV\x01",
            b"#!AMR",
            b"\0\0\x01\xba",
            b".RMF",
            b"MAC ",
            b"wvpk",
            b"TTA1",
        )
        is_adts = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
        is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
        if head[4:8] == b"ftyp" or head.startswith(known) or is_adts or is_avi:
            return True
        return os.fspath(path).lower().endswith(cls.suffixes) and head[:4] not in (b"RIFF", b"fLaC", b"OggS", b"FORM")

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`AudioReader.read`."""
        import numpy as np

        return np.array(self._samples[start:stop])

    def close(self) -> None:
        """Let go of what was decoded."""
        self._samples = self._samples[:0]


@lru_cache(maxsize=1)
def find_ffmpeg() -> str | None:
    """The program: the system's, or that of the package imageio-ffmpeg; None without either."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None


@lru_cache(maxsize=2)
def _decode(program: str, path: str, size: int, modified: int) -> tuple[int, np.ndarray, float]:
    """Sample rate and samples (N, C) of a file, and the seconds that its header says; 0 where it does not."""
    import numpy as np

    command = [program, "-nostdin", "-hide_banner", "-i", f"file:{path}"]
    asked = subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")
    found = _AUDIO.search(asked)
    if not found:
        reason = "no sound track in it" if "Stream #" in asked else asked.strip().splitlines()[-1][-200:]
        raise InputError(f"{path} is not audio that can be read (ffmpeg: {reason})")
    channels = 1 if found[3] else 2 if found[4] else int(found[5]) if found[5] else _LAYOUTS.get(found[6], 0)
    raw = ["-map", "0:a:0", "-f", "f32le", "-c:a", "pcm_f32le", "-"]
    with tempfile.TemporaryFile() as target:
        subprocess.run([*command, *raw], stdout=target, stderr=subprocess.DEVNULL, check=False)
        count = os.fstat(target.fileno()).st_size // (4 * channels) if channels else 0
        if not count:
            raise InputError(f"{path} has no samples that ffmpeg can decode ({found[1]})")
        samples = np.memmap(target, "<f4", "r", shape=(count, channels))  # the file is gone when nobody maps it
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", asked)
    stated = 3600 * int(length[1]) + 60 * int(length[2]) + float(length[3]) if length else 0.0
    return int(found[2]), samples, stated
