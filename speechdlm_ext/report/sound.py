"""Audio on a page: embedded while there is room, else linked; and its outline, one character per column."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.io.audio import audio_info, read_blocks

# A level of 0 to 63 as one character, on a square-root scale, so that soft speech is seen beside loud.
LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_MIME = {".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg", ".wav": "audio/wav"}  # what browsers play
_COMPRESSED = (".flac", ".ogg", ".mp3")  # embedded as they are; others become FLAC, 16 bits
_MOST_FLAC_CHANNELS = 8
_LEAST_FLAC = 0.3  # of the bytes of 16-bit samples; speech hardly falls below, so that no encoding is tried in vain


@dataclass(frozen=True)
class Sound:
    """The audio of a player, and the outline that its timeline shows.

    Attributes:
        sources: addresses that are played together: one of all channels, or one for each; none where there is no audio.
        outlines: for each channel a character a column, see :func:`outline`.
        offset: second of the sources at which the timeline begins.
        embedded: whether the audio is in the page itself.
    """

    sources: Sequence[str] = ()
    outlines: Sequence[str] = ()
    offset: float = 0.0
    embedded: bool = False


@dataclass(frozen=True)
class Recording:
    """Where the audio of a dialogue is.

    Attributes:
        files: one file of all channels, or one for each channel; none where there is no audio.
        start: second of the files at which the dialogue's clock begins.
        lead: seconds before that which are shown and played, too, such as a prompt.
    """

    files: Sequence[str | os.PathLike[str]] = ()
    start: float = 0.0
    lead: float = 0.0


def embed_wave(wave: NDArray[np.float32], sample_rate: int) -> Sound:
    """Samples (C, N), full scale 1, as audio within the page."""
    columns = outline_columns(wave.shape[1] / sample_rate)
    return Sound([audio_uri(wave, sample_rate)], [outline(channel, columns) for channel in wave], embedded=True)


def load_sound(recording: Recording, seconds: float, room: int, folder: Path) -> Sound:
    """Read a dialogue's audio by blocks, for a page in ``folder``.

    Args:
        recording: where it is.
        seconds: length of the dialogue without the lead.
        room: characters that embedded audio may take; what needs more is linked.
        folder: that the addresses of linked files are relative to.

    Raises:
        InputError: a file is missing or not audio.
    """
    first, last = recording.start - recording.lead, recording.start + seconds
    outlines: list[str] = []
    for file in recording.files:
        outlines += _file_outlines(file, first, last)
    embedded = _embed_all(recording.files, first, last, room) if room > 0 else None
    if embedded is not None:
        cut = not all(uri_is_whole for _, uri_is_whole in embedded)
        return Sound([uri for uri, _ in embedded], outlines, 0.0 if cut else first, embedded=bool(embedded))
    playable = all(_suffix(file) in _MIME for file in recording.files)
    return Sound([link_to(file, folder) for file in recording.files] if playable else [], outlines, first)


def link_to(file: str | os.PathLike[str], folder: Path) -> str:
    """Address of a file relative to the page's folder; its name may have any bytes."""
    return quote(os.fsencode(os.path.relpath(file, folder)).replace(os.sep.encode(), b"/"))


def outline_columns(seconds: float) -> int:
    """Columns of an outline: enough for a screen, and more for long audio, which can be zoomed."""
    return int(min(2400, max(600, 10 * seconds)))


def outline(wave: NDArray[np.float32], columns: int) -> str:
    """Greatest level in each of ``columns`` equal segments of a channel (N,), as characters of :data:`LEVELS`."""
    peaks = np.zeros((1, columns))
    _raise_peaks(peaks, wave[None], 0, len(wave))
    return _levels(peaks)[0]


def audio_uri(wave: NDArray[np.float32], sample_rate: int) -> str:
    """Samples (C, N) as a data address: lossless (FLAC, 16 bits), which every current browser plays."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave.T, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return _data_uri(buffer.getvalue(), "audio/flac")


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _suffix(file: str | os.PathLike[str]) -> str:
    return Path(file).suffix.lower()


def _raise_peaks(peaks: NDArray[np.float64], block: NDArray[np.float32], position: int, total: int) -> None:
    """Let the samples (C, n) from ``position`` on raise the peaks (C, columns) of ``total`` samples."""
    samples, columns = block.shape[1], peaks.shape[1]
    if not samples or not total:
        return
    bounds = -(-np.arange(columns) * total // columns)  # first sample of each column
    first = int(np.searchsorted(bounds, position, "right")) - 1
    last = int(np.searchsorted(bounds, position + samples, "left"))
    places, columns_here = np.unique(np.maximum(bounds[first:last] - position, 0)[::-1], return_index=True)
    number = last - 1 - columns_here  # where samples are fewer than columns, the last column of those at one place
    for channel, row in zip(np.ascontiguousarray(block), peaks, strict=True):
        found = np.maximum(np.maximum.reduceat(channel, places), -np.minimum.reduceat(channel, places))
        row[number] = np.maximum(row[number], found)


def _levels(peaks: NDArray[np.float64]) -> list[str]:
    heights = np.rint(np.sqrt(np.clip(peaks, 0, 1)) * (len(LEVELS) - 1)).astype(int)
    return ["".join(LEVELS[height] for height in channel) for channel in heights]


def _blocks(file: str | os.PathLike[str], first: float, last: float) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Samples (C, n) between two times of a file, each block with its position among them."""
    info, start, position = audio_info(file), max(0.0, first), 0
    if round(start * info.sample_rate) < min(round(last * info.sample_rate), info.frames):
        for block in read_blocks(file, start=start, stop=last):
            yield position, block.numpy()
            position += block.shape[1]


def _file_outlines(file: str | os.PathLike[str], first: float, last: float) -> list[str]:
    info = audio_info(file)
    peaks = np.zeros((info.channels, outline_columns(last - first)))
    total = max(1, round((last - first) * info.sample_rate))
    for position, block in _blocks(file, first, last):
        _raise_peaks(peaks, block, position, total)
    return _levels(peaks)


def _embed_all(
    files: Sequence[str | os.PathLike[str]], first: float, last: float, room: int
) -> list[tuple[str, bool]] | None:
    """Data addresses of all files, each with whether it is the whole file; None if they need more than ``room``."""
    whole = first <= 0 and all(audio_info(file).duration <= last + 0.5 for file in files)
    found = []
    for file in files:
        content, mime = _content(file, first, last, whole, room * 3 // 4)
        if content is None:
            return None
        uri = _data_uri(content, mime)
        room -= len(uri)
        if room < 0:
            return None
        found.append((uri, whole))
    return found


def _content(
    file: str | os.PathLike[str], first: float, last: float, whole: bool, most: int
) -> tuple[bytes | None, str]:
    """The bytes of a file, or of a part of it as FLAC; None if they are more than ``most``."""
    import soundfile

    suffix, info = _suffix(file), audio_info(file)
    if whole and suffix in _COMPRESSED:
        size = os.stat(file).st_size
        return (Path(file).read_bytes() if size <= most else None), _MIME[suffix]
    samples = min(info.frames, (last - max(0.0, first)) * info.sample_rate) * info.channels
    if info.channels > _MOST_FLAC_CHANNELS or samples * 2 * _LEAST_FLAC > most:
        return None, ""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", info.sample_rate, info.channels, format="FLAC", subtype="PCM_16") as out:
        for _, block in _blocks(file, first, last):
            out.write(np.clip(block.T, -1, 1))
            if buffer.tell() > most:
                return None, ""
    content = buffer.getvalue()
    return (content if len(content) <= most else None), "audio/flac"
