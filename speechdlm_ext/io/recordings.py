"""The recordings of a manifest, and their sound."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_blocks, resampled_length
from speechdlm_ext.io.manifest import read_numbered_jsonl

if TYPE_CHECKING:
    import torch

# A file name may have 255 bytes; suffixes and numbers come after the id.
_ID_BYTES = 160


def read_manifest(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a manifest of recordings; audio paths in it that are relative are taken from the manifest's folder.

    ``audio_filepath`` is one recording with all channels, or a list of mono recordings, one for each channel.

    Rows without an ``id`` are named after their files (``make_ids``).

    Raises:
        InputError: the file is missing, has no rows, or a row lacks its audio file, is doubled, or has a duration or
            channels that cannot be; the message names the line.
    """
    numbered = read_numbered_jsonl(path)
    if not numbered:
        raise InputError(f"{path} has no rows")
    folder = os.path.dirname(os.path.abspath(path))
    lines: dict[str, int] = {}
    for number, row in numbered:
        audio = row.get("audio_filepath")
        files = [file for file in (audio if isinstance(audio, list) else [audio]) if isinstance(file, str) and file]
        if not files or isinstance(audio, list) and len(files) < len(audio):
            raise InputError(f"{path}, line {number}: audio_filepath is missing")
        files = [os.path.join(folder, file) for file in files]
        row["audio_filepath"] = files if isinstance(audio, list) else files[0]
        name = row.get("id", f"\n{files}")  # rows without an id are told apart by their recordings
        if not isinstance(name, str) or not name:
            raise InputError(f"{path}, line {number}: the id {name!r} must be text")
        if name in lines:
            what = f"the id {name!r}" if "id" in row else f"the recording {files[0]}"
            raise InputError(f"{path}, line {number}: {what} is that of line {lines[name]}, too")
        lines[name] = number
        _check_size(row, f"{path}, line {number}")
    rows = [row for _, row in numbered]
    _name(rows)
    return rows


def _check_size(row: Mapping[str, Any], where: str) -> None:
    """Raise an InputError where the duration, channels or sample rate, if the row says them, cannot be."""
    for key in ("channels", "sample_rate"):
        value = row.get(key)
        if value is not None and (type(value) not in (int, float) or value != value // 1 or not 1 <= value < math.inf):
            raise InputError(f'{where}: "{key}": {value!r}, a whole number from 1 up is wanted')
    duration = row.get("duration")
    if duration is not None and not (type(duration) in (int, float) and 0 <= duration < math.inf):
        raise InputError(f'{where}: "duration": {duration!r}, a number of seconds from 0 up is wanted')


def _name(rows: list[dict[str, Any]]) -> None:
    """Give an id to each row that has none."""
    nameless = [row for row in rows if "id" not in row]
    taken = [row["id"] for row in rows if "id" in row]
    for row, name in zip(nameless, make_ids([Path(audio_paths(row)[0]) for row in nameless], taken), strict=True):
        row["id"] = name


def make_ids(paths: Sequence[Path], taken: Collection[str] = ()) -> list[str]:
    """A name for each file that can be a file name anywhere and is like no other, nor like one of ``taken``.

    It is the file's stem with all but letters, digits, ``.``, ``_`` and ``-`` replaced by ``_``. Where several files
    have the same, the folders below their common one are put before it, and then, if need be, a number after it.
    """
    ids = [safe_id(path.stem) for path in paths]
    counts = Counter(name.casefold() for name in ids)
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    for place, path in enumerate(paths):
        if counts[ids[place].casefold()] > 1:
            ids[place] = safe_id("-".join(path.relative_to(root).with_suffix("").parts))
    used = {name.casefold() for name in taken}
    for place, name in enumerate(ids):
        number = 1
        while ids[place].casefold() in used:
            number += 1
            ids[place] = f"{name}-{number}"
        used.add(ids[place].casefold())
    return ids


def audio_paths(row: Mapping[str, Any]) -> list[str]:
    """The audio files of a manifest's row: one recording with all channels, or a mono one for each."""
    audio = row["audio_filepath"]
    return [audio] if isinstance(audio, str) else list(audio)


def recording_blocks(row: Mapping[str, Any], sample_rate: int) -> Iterator[torch.Tensor]:
    """The sound of a manifest's row in blocks (C, n) at ``sample_rate`` Hz.

    Raises:
        InputError: as :func:`speechdlm_ext.io.audio.read_blocks`, the file has other channels than the row says, or the
            files of the channels are not equally long.
    """
    paths = audio_paths(row)
    if len(paths) == 1:
        yield from read_blocks(paths[0], sample_rate, row.get("channels"))
        return
    import torch

    lengths = [resampled_length(info.frames, info.sample_rate, sample_rate) for info in map(audio_info, paths)]
    if len(set(lengths)) > 1:
        found = ", ".join(f"{path}: {length / sample_rate:.3f} s" for path, length in zip(paths, lengths, strict=True))
        raise InputError(f"channels of unequal length ({found}): cut them to the same part of the conversation")
    streams = [_even_blocks(read_blocks(path, sample_rate, channels=1), sample_rate) for path in paths]
    for blocks in zip(*streams, strict=True):
        yield torch.cat(blocks)


def _even_blocks(blocks: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The same samples (1, N) in blocks of ``size``, so that files of several rates come in step."""
    import torch

    rest = None
    for block in blocks:
        rest = block if rest is None else torch.cat((rest, block), dim=1)
        whole = rest.shape[1] // size * size
        yield from rest[:, :whole].split(size, dim=1) if whole else ()
        rest = rest[:, whole:]
    if rest is not None and rest.shape[1]:
        yield rest


def recording_size(row: Mapping[str, Any]) -> tuple[float, int]:
    """Length in seconds and number of channels of a manifest's row; what it does not say, its files do.

    Raises:
        InputError: as :func:`speechdlm_ext.io.audio.audio_info`.
    """
    duration, channels = row.get("duration"), row.get("channels")
    if isinstance(duration, (int, float)) and isinstance(channels, int):
        return duration, channels
    infos = [audio_info(path) for path in audio_paths(row)]
    return infos[0].duration, sum(info.channels for info in infos)


def recording_seconds(row: Mapping[str, Any]) -> float:
    """Length in seconds as it will be heard, at the row's ``speed``; 0 where the file cannot be read."""
    try:
        return recording_size(row)[0] / float(row.get("speed", 1))
    except (InputError, OSError):
        return 0.0  # it will be left out


def recording_stamp(row: Mapping[str, Any]) -> list[Any]:
    """What tells whether a recording is still the one that was encoded."""
    paths = audio_paths(row)
    return [[path, *stamp(path)] for path in paths] + ([row["speed"]] if "speed" in row else [])


def stamp(path: str) -> list[int]:
    """Size and time of a file, by which one sees that it is still the same; nothing where it is not there."""
    if not os.path.exists(path):
        return []
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def safe_id(text: str) -> str:
    """The text with all but letters, digits, ``.``, ``_`` and ``-`` replaced, short enough for a file name."""
    text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip("._-")
    return text.encode()[:_ID_BYTES].decode(errors="ignore") or "recording"
