"""Where the channels of each split are: in one file of rows, or in a text file each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import channel_names, parse_row, row_channels


@dataclass(frozen=True)
class Source:
    """The files of a split.

    Attributes:
        split: its name.
        channels: names of the channels, in order.
        files: which channels each file has.
        rows: whether the file has rows of all channels (JSON, or Python literals) and not lines of one.
        exact: whether further channels in the data are an error, as nobody has chosen among them.
    """

    split: str
    channels: list[str]
    files: dict[str, list[str]]
    rows: bool
    exact: bool


def find_sources(prefixes: Mapping[str, str], channels: Sequence[str] | None = None) -> list[Source]:
    """The files of each split.

    Args:
        prefixes: for each split a file of rows, or the prefix of text files, ``<prefix>.<channel>``.
        channels: names of the channels; by default those of the first split.

    Raises:
        InputError: nothing to do, a file is missing, channels whose names collide or cannot be those of files, or
            splits with other channels.
    """
    if not prefixes:
        raise InputError("nothing to binarize: pass --trainpref, --validpref or --testpref")
    if channels is not None:
        bad = [name for name in channels if not name or name != name.strip() or os.sep in name]
        if bad or len(set(channels)) < len(channels) or not channels:
            raise InputError(f"--channels {','.join(channels)}: different names are expected, separated by commas")
    sources: list[Source] = []
    for split, prefix in prefixes.items():
        expected = channels or (sources[0].channels if sources else None)
        sources.append(_find(split, prefix, expected, exact=channels is None))
    return sources


def _find(split: str, prefix: str, channels: Sequence[str] | None, exact: bool) -> Source:
    if os.path.isfile(prefix):
        names = list(channels) if channels else _first_row_channels(prefix)
        return Source(split, names, {prefix: names}, rows=True, exact=exact)
    found = [name for name in map("unit{}".format, ascii_uppercase) if os.path.exists(f"{prefix}.{name}")]
    names = list(channels) if channels else found
    if not names:
        raise InputError(
            f"{prefix}: neither a unit file nor the prefix of {prefix}.unitA, …; --channels names other channels"
        )
    if not channels and names != channel_names(len(names)):
        raise InputError(f"{prefix}: the channels unitA, unitB, … are expected, found {', '.join(names)}")
    files = {f"{prefix}.{name}": [name] for name in names}
    for path, (name,) in files.items():
        if not os.path.exists(path):
            raise InputError(f"{path}: no such file; the channels are {','.join(names)}, see --channels")
        if not os.path.isfile(path):
            raise InputError(f"{path} is not a file; a line of units for each dialogue is expected in channel {name}")
    if exact and set(found) - set(names):
        extra = min(set(found) - set(names))
        raise InputError(f"{prefix}.{extra} exists, too, but the channels are {','.join(names)}: see --channels")
    return Source(split, names, files, rows=False, exact=exact)


def _first_row_channels(path: str) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = parse_row(line.strip(), f"{path}, line {number}")
                try:
                    return row_channels(row)
                except InputError as error:
                    raise InputError(f"{path}, line {number}: {error}; --channels names other fields") from None
    raise InputError(f"{path} has no rows")
