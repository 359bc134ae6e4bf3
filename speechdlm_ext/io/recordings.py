"""The recordings of a manifest, and their sound."""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, file_arrays, resampled_length, without_dc
from speechdlm_ext.io.manifest import JsonlRows, Line, NumbersOnDisk, iter_jsonl
from speechdlm_ext.io.naming import NameTable, name_of
from speechdlm_ext.io.readers import open_audio
from speechdlm_ext.io.readers.base import AudioReader

if TYPE_CHECKING:
    import numpy as np
    import torch

PART_FIELDS = ("offset", "channel_selector")  # fields that make a row a part of its recording
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}").fullmatch
_SIMPLE = {"id", "audio_filepath", "duration", "text"}  # rows of these need few checks
_said: set[str] = set()  # manifests whose relative paths have been said
_ROUNDING = 0.1  # seconds by which a duration that people wrote may be off


class Manifest(JsonlRows):
    """The rows of a manifest of recordings, checked, with absolute paths and ids; see :func:`read_manifest`."""

    def __init__(self, path: str | os.PathLike[str], excerpts: bool = True) -> None:
        self._folder = os.path.dirname(os.path.abspath(path))
        self._excerpts = excerpts
        self._hashes = NumbersOnDisk()  # of names
        super().__init__(path)
        self._names = self._told_apart() if self._hashes.repeated() else None
        del self._hashes

    def _scan(self) -> Iterator[int]:
        for line in checked_lines(self._path, self._excerpts):
            self._hashes.append(hash(_plain_name(line.row).casefold()))
            yield line.offset

    def _told_apart(self) -> NameTable:
        names = NameTable()
        for place, line in enumerate(iter_jsonl(self._path)):
            if "id" in line.row:
                names.take(line.row["id"])
            else:
                names.add(place, audio_paths(with_absolute_paths(line.row, self._folder))[0])
        names.settle()
        return names

    def _finish(self, row: dict[str, Any], place: int) -> dict[str, Any]:
        row = with_absolute_paths(row, self._folder)
        if "id" in row:
            return row
        return {**row, "id": _plain_name(row) if self._names is None else self._names[place]}


def _plain_name(row: Mapping[str, Any]) -> str:
    return str(row["id"]) if "id" in row else name_of(audio_paths(row)[0])


def read_manifest(path: str | os.PathLike[str], excerpts: bool = True) -> Manifest:
    """Read a manifest of recordings; audio paths in it that are relative are taken from the manifest's folder.

    ``audio_filepath`` is one recording with all channels, or a list of mono recordings, one for each channel. What
    ``offset``, ``duration``, ``sample_rate``, ``channels`` and ``channel_selector`` mean, see :func:`recording_blocks`.

    Rows without an ``id`` are named after their files (:class:`.NameTable`). Every line is checked, and none is kept in
    memory: a row is read when it is asked for.

    Args:
        path: the manifest.
        excerpts: whether rows may be parts of recordings (``offset``, ``channel_selector``); readers that take whole
            recordings refuse such rows.

    Raises:
        InputError: the file is missing, has no rows, or a row lacks its audio file, is doubled, has a name that cannot
            be a file's, or a value that cannot be; the message names the line.
    """
    return Manifest(path, excerpts)


def checked_lines(path: str | os.PathLike[str], excerpts: bool = True) -> Iterator[Line]:
    """The rows of :func:`read_manifest`, one at a time, still without ids where they have none.

    Raises:
        InputError: as :func:`read_manifest`, when the row in question is reached; at the end where two are the same.
    """
    folder = os.path.dirname(os.path.abspath(path))
    seen = NumbersOnDisk()  # in place of names
    relative = number = 0
    for number, offset, row in iter_jsonl(path):
        audio = row.get("audio_filepath")
        if type(audio) is not str or not audio or audio[0] != "/":
            files = audio if isinstance(audio, list) and audio else [audio]
            if not all(isinstance(file, str) and file for file in files):
                raise InputError(f"{path}, line {number}: audio_filepath is missing")
            relative += not all(map(os.path.isabs, files))
            row = with_absolute_paths(row, folder)
        if "id" in row:
            name = row["id"]
            if type(name) is not str or not _PLAIN_NAME(name):
                check_name(name, f"{path}, line {number}: the id")
        seen.append(hash(recording_key(row)))
        if _SIMPLE.issuperset(row) and type(row.get("duration", 0.0)) is float and 0 <= row.get("duration", 0.0) < 1e9:
            pass  # nothing that could be wrong
        else:
            _check_values(row, f"{path}, line {number}")
        if not excerpts and (part := next((key for key in PART_FIELDS if row.get(key) is not None), None)):
            raise InputError(
                f'{path}, line {number}: "{part}": expected whole recordings: write the part to a file of its own'
            )
        yield Line(number, offset, row)
    if not number:
        raise InputError(f"{path} has no rows")
    _refuse_doubled(seen, path)
    if relative and (key := os.path.abspath(path)) not in _said:
        _said.add(key)
        print(f"note: {path}: {relative} relative paths are taken from {folder}", file=sys.stderr)


def _refuse_doubled(seen: NumbersOnDisk, path: str | os.PathLike[str]) -> None:
    """Raise an InputError where two rows have one id, or are the same part of one recording.

    Args:
        seen: the hash of each row's key.
        path: the manifest.
    """
    doubled = seen.repeated()
    first: dict[str, int] = {}
    for line in iter_jsonl(path) if doubled else ():
        row = with_absolute_paths(line.row, os.path.dirname(os.path.abspath(path)))
        key = recording_key(row)
        if key in first:
            what = f"the id {row['id']!r}" if "id" in row else f"the recording {audio_paths(row)[0]}"
            raise InputError(f"{path}, line {line.number}: {what} is that of line {first[key]}, too")
        if hash(key) in doubled:
            first[key] = line.number


def with_absolute_paths(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The row with the paths of its audio files that are relative taken from a folder."""
    audio = row["audio_filepath"]
    if isinstance(audio, list):
        return {**row, "audio_filepath": [os.path.join(folder, file) for file in audio]}
    return {**row, "audio_filepath": os.path.join(folder, audio)}


def recording_key(row: Mapping[str, Any]) -> str:
    """What tells the rows of a manifest apart: the id, or else what is read of which files."""
    if "id" in row:
        return str(row["id"])
    part, audio = _part_key(row), row["audio_filepath"]
    return f"\n{audio}" if isinstance(audio, str) and not part else f"\n{audio_paths(row)} {part}"


def digest_recordings(rows: Iterable[Mapping[str, Any]]) -> str:
    """What tells whether two lists are of the same recordings in the same order, whatever else the rows say."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(recording_key(row).encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()


def check_name(name: object, where: str) -> str:
    """The name of a recording, which becomes the name of files.

    Raises:
        InputError: it cannot be one; the message begins with ``where``.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^/\0]{1,200}", name) or name.startswith("."):
        raise InputError(f'{where} {name!r} cannot be the name of a file: expected a text without "/"')
    return name


def _check_values(row: Mapping[str, Any], where: str) -> None:
    """Raise an InputError where a field that says what is read has a value that cannot be."""
    for key in ("channels", "sample_rate"):
        value = row.get(key)
        if value is not None and (type(value) not in (int, float) or value != value // 1 or not 1 <= value < math.inf):
            raise InputError(f'{where}: "{key}": {value!r}, expected a whole number from 1 up')
    for key in ("duration", "offset"):
        value = row.get(key)
        if value is not None and not (type(value) in (int, float) and 0 <= value < math.inf):
            raise InputError(f'{where}: "{key}": {value!r}, expected a number of seconds from 0 up')
    selector = row.get("channel_selector")
    chosen = selector if isinstance(selector, list) and selector else [selector]
    if selector not in (None, "average") and not all(type(one) is int and one >= 0 for one in chosen):
        raise InputError(
            f'{where}: "channel_selector": {selector!r}, expected the number of a channel from 0, a list of such, or '
            '"average"'
        )


def audio_paths(row: Mapping[str, Any]) -> list[str]:
    """The audio files of a manifest's row: one recording with all channels, or a mono one for each."""
    audio = row["audio_filepath"]
    return [audio] if isinstance(audio, str) else list(audio)


def recording_blocks(row: Mapping[str, Any], sample_rate: int) -> Iterator[torch.Tensor]:
    """The sound of a manifest's row in blocks (C, n) at ``sample_rate`` Hz.

    With an ``offset`` (seconds) the row is the part of the recording that begins there and lasts for its ``duration``,
    or to the end. Without, ``duration`` is that of the recording, as ``sample_rate`` and ``channels`` are the file's:
    where the file has others, the row is of another file, and refused. ``channel_selector`` (as in NeMo) is the number
    of the channel to read, counted from 0, a list of such, or ``"average"``. DC is taken out (:func:`without_dc`).

    Raises:
        InputError: as :func:`speechdlm_ext.io.audio.read_blocks`, the file has not what the row says, or the files of
            the channels are not equally long.
    """
    import torch

    return map(torch.from_numpy, recording_arrays(row, sample_rate))


def recording_arrays(row: Mapping[str, Any], sample_rate: int) -> Iterator[np.ndarray]:
    """As :func:`recording_blocks`, in arrays of NumPy."""
    with open_recording(row) as files:
        yield from arrays_of(row, files, sample_rate)


@contextmanager
def open_recording(row: Mapping[str, Any]) -> Iterator[list[AudioReader]]:
    """The files of a manifest's row, open to be read."""
    with ExitStack() as stack:
        yield [stack.enter_context(open_audio(path)) for path in audio_paths(row)]


def arrays_of(row: Mapping[str, Any], files: Sequence[AudioReader], sample_rate: int) -> Iterator[np.ndarray]:
    """As :func:`recording_arrays`, from the files of :func:`open_recording`."""
    import numpy as np

    for file in files:
        _check_file(row, file)
        if file.notes and "notes" not in row:  # a manifest that make_manifest.py did not write
            print(f"note: {file.path}: {'; '.join(file.notes)}", file=sys.stderr)
    start, stop = _part_of(row)
    if len(files) == 1:
        pick = _picked(row, files[0].channels)
        blocks = file_arrays(files[0], sample_rate, row.get("channels"), start=start, stop=stop)
        for block in without_dc(blocks, sample_rate):
            block = block if pick is None else block[pick]
            yield block.mean(0, keepdims=True) if row.get("channel_selector") == "average" else block
        return
    _picked(row, len(files))
    lengths = [resampled_length(file.frames, file.sample_rate, sample_rate) for file in files]
    if len(set(lengths)) > 1 and stop is None:
        each = zip(files, lengths, strict=True)
        found = ", ".join(f"{file.path}: {length / sample_rate:.3f} s" for file, length in each)
        raise InputError(f"channels of unequal length ({found}): cut them to the same part of the conversation")
    mono = [file_arrays(file, sample_rate, channels=1, start=start, stop=stop) for file in files]
    streams = [_even_blocks(without_dc(blocks, sample_rate), sample_rate) for blocks in mono]
    for together in zip(*streams, strict=stop is None):
        yield np.concatenate(together)


def _part_of(row: Mapping[str, Any]) -> tuple[float, float | None]:
    """Where the row begins and ends in its file, in seconds; None for the file's end."""
    start, duration = row.get("offset"), row.get("duration")
    return (start or 0.0), (None if start is None or duration is None else start + duration)


def _part_key(row: Mapping[str, Any]) -> list[Any]:
    """What tells parts of one file apart; nothing for a whole recording."""
    if row.get("offset") is None and row.get("channel_selector") is None:
        return []
    return [[*_part_of(row), row.get("channel_selector")]]


def _check_file(row: Mapping[str, Any], file: AudioReader) -> None:
    """Raise an InputError where the file is not what the row says."""
    rate, duration, (start, stop) = row.get("sample_rate"), row.get("duration"), _part_of(row)
    if rate is not None and rate != file.sample_rate:
        raise InputError(f'{file.path} has {file.sample_rate} Hz, its row says "sample_rate": {rate}: correct the row')
    if stop is not None and stop > file.duration + _ROUNDING:
        raise InputError(
            f"{file.path} is {file.duration:.3f} s long, its row is the part from {start:g} to {stop:g} s: correct "
            '"offset" and "duration"'
        )
    if row.get("offset") is not None or duration is None:
        return
    if abs(duration - file.duration) > max(_ROUNDING, 0.01 * file.duration):
        raise InputError(
            f'{file.path} is {file.duration:.3f} s long, its row says "duration": {duration:g}: correct it, or add '
            '"offset" for a part of the file'
        )


def _picked(row: Mapping[str, Any], channels: int) -> list[int] | None:
    """The channels that ``channel_selector`` names; None for all."""
    selector = row.get("channel_selector")
    if selector is None or selector == "average":
        return None
    chosen: list[int] = selector if isinstance(selector, list) else [selector]
    if max(chosen) >= channels or not isinstance(row["audio_filepath"], str):
        raise InputError(
            f'{audio_paths(row)[0]}: "channel_selector": {selector} of {channels} channels in '
            f"{len(audio_paths(row))} file(s): expected 0 to {channels - 1} of one file"
        )
    return chosen


def _even_blocks(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples (1, N) in blocks of ``size``, so that files of several rates come in step."""
    import numpy as np

    rest = np.zeros((1, 0), np.float32)
    for block in blocks:
        rest = np.concatenate((rest, block), axis=1)
        while rest.shape[1] >= size:
            yield rest[:, :size]
            rest = rest[:, size:]
    if rest.shape[1]:
        yield rest


def recording_size(row: Mapping[str, Any]) -> tuple[float, int]:
    """Length in seconds and number of channels of a manifest's row; what it does not say, its files do.

    Raises:
        InputError: as :func:`speechdlm_ext.io.audio.audio_info`.
    """
    duration, channels = row.get("duration"), row.get("channels")
    if duration is None or channels is None:
        infos = [audio_info(path) for path in audio_paths(row)]
        duration = infos[0].duration - _part_of(row)[0] if duration is None else duration
        channels = sum(info.channels for info in infos) if channels is None else channels
    picked = [0] if row.get("channel_selector") == "average" else _picked(row, channels)
    return duration, channels if picked is None else len(picked)


def recording_seconds(row: Mapping[str, Any]) -> float:
    """Length in seconds at the row's ``speed``; 0 where the file cannot be read."""
    try:
        duration = row.get("duration")
        return (recording_size(row)[0] if duration is None else duration) / float(row.get("speed", 1))
    except (InputError, OSError):
        return 0.0  # it will be skipped


def left_to_do(
    rows: Sequence[Mapping[str, Any]], places: Iterable[int], is_done: Callable[[Mapping[str, Any]], bool]
) -> tuple[NumbersOnDisk, float]:
    """Of the rows at ``places``, the places of those that are not done, and how many seconds these are."""
    left, seconds = NumbersOnDisk(), 0.0
    for place in places:
        row = rows[place]
        if not is_done(row):
            left.append(place)
            seconds += recording_seconds(row)
    return left, seconds


def recording_stamp(row: Mapping[str, Any]) -> list[Any]:
    """What tells whether a recording is still the one that was encoded."""
    paths = audio_paths(row)
    part = [row["speed"]] if "speed" in row else []
    return [[path, *stamp(path)] for path in paths] + part + _part_key(row)


def stamp(path: str) -> list[int]:
    """Size and time of a file, by which one sees that it is still the same; nothing where it is not there."""
    if not os.path.exists(path):
        return []
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
