"""wav, flac, ogg, mp3 and whatever else libsndfile reads, with the length that they have."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.readers.base import AudioReader
from speechdlm_ext.io.readers.containers import find_samples
from speechdlm_ext.io.readers.flac import UNKNOWN, read_flac_info
from speechdlm_ext.io.readers.mpeg import find_frames, parse_frame
from speechdlm_ext.io.readers.view import FileView, patched

if TYPE_CHECKING:
    import numpy as np

_MOST_FRAMES = 1 << 48  # what libsndfile says where it does not know the length is more
_RUN_IN = 1 << 13  # samples decoded before those that are asked for; Vorbis' largest block
_COUNTED_AT_ONCE = 1 << 16


class SndfileReader(AudioReader):
    """See :class:`AudioReader`."""

    formats = "RIFF (PCM, float, extensible, µ-law, A-law, ADPCM, GSM, RF64), AIFF, AU, CAF, W64, FLAC, Ogg, MP3"
    suffixes = (
        ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
        ".wave", ".oga", ".mp2", ".mpga", ".voc",
    )  # fmt: skip

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._view, share = self._corrected()
        self._open(path if self._view is None else self._view)
        self.sample_rate, self.channels, self.frames = self._file.samplerate, self._file.channels, self._file.frames
        if not 0 < self.frames < _MOST_FRAMES or self.channels <= 0 or self.sample_rate <= 0:
            self.close()
            raise InputError(f"{path} has no samples")
        if share is not None:
            self.note_length(round(share * self.frames))
        log = self._file.extra_info
        if "Junk after the last page" in log and "lacks an end-of-stream bit" in log:
            self.notes.append(f"cut off after {self.frames / self.sample_rate:.2f} s")

    @classmethod
    def opens(cls, path: str | os.PathLike[str], head: bytes) -> bool:
        """Always: libsndfile itself says what it cannot read."""
        return True

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`AudioReader.read`."""
        import soundfile

        try:
            if start != self._file.tell():
                # Behind a seek, Vorbis is decoded wrongly where blocks of two sizes meet, and at the end.
                before = min(start, _RUN_IN) if self._file.subtype == "VORBIS" else 0
                self._file.seek(start - before)
                if before:
                    self._file.read(before, dtype="float32")
            return self._file.read(stop - start, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            whole = self._whole_until(start) / self.sample_rate
            raise InputError(f"{self.path} is damaged after {whole:.2f} s ({error.error_string})") from None

    def _whole_until(self, start: int) -> int:
        """The sample at which decoding from ``start`` on fails."""
        import soundfile

        with suppress(soundfile.LibsndfileError):
            self._file.seek(start)
            while found := len(self._file.read(_RUN_IN // 8)):
                start += found
        return start

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._view is not None:
            self._view.close()

    def _corrected(self) -> tuple[FileView | None, float | None]:
        """The file with the length that it has in its header, where that says another one.

        Returns:
            None where the header is right; and which share of the length that there is the header states, 0 for none,
            None where that is no fault.
        """
        with open(self.path, "rb") as file:
            head = file.read(64)
        if head[:3] in (b"fLa", b"ID3") and (info := read_flac_info(self.path)):
            if info.found == info.stated or info.found is None and info.stated:
                return None, None
            found = self._count(info.patch(UNKNOWN)) if info.found is None else info.found
            return patched(self.path, info.patch(found)), info.stated / max(1, found)
        is_mp3 = os.fspath(self.path).lower().endswith(".mp3") and head[:4] not in (b"RIFF", b"OggS")
        if is_mp3 or head[:3] == b"ID3" or parse_frame(int.from_bytes(head[:4], "big")):
            frames = find_frames(self.path)
            if frames is None or frames.stated == frames.count:
                return None, None
            return frames.view(self.path), frames.stated / max(1, frames.count) if frames.stated else None
        data = find_samples(self.path, head)
        if data is None or data.is_right or not data.found:
            return None, None
        return patched(self.path, data.patches()), (data.stated or 0) / data.found

    def _open(self, source: Any) -> None:
        import soundfile

        if isinstance(source, (str, os.PathLike)):
            # As bytes where names are bytes: soundfile itself refuses those that are not UTF-8.
            source = os.fsencode(source) if os.name == "posix" else os.fspath(source)
        try:
            self._file = soundfile.SoundFile(source)
        except (soundfile.LibsndfileError, TypeError) as error:
            if self._view is not None:
                self._view.close()
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise InputError(
                f"{self.path} is not audio that can be read ({reason}): convert it, as by "
                f"ffmpeg -i {self.path} {os.path.splitext(os.fspath(self.path))[0]}.wav"
            ) from None

    def _count(self, patches: dict[int, bytes]) -> int:
        """Samples of each channel that the decoder gives until it ends, where a header states too many."""
        self._view = patched(self.path, patches)
        self._open(self._view)
        self.sample_rate, count = self._file.samplerate, 0
        while found := len(self.read(count, count + _COUNTED_AT_ONCE)):
            count += found
        self.close()
        return count
