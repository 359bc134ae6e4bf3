"""The files of binarized data: under which names, whole or not at all, and byte by byte as fairseq writes them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechdlm_ext.data.text_chunks import END, read_numbers, write_array
from speechdlm_ext.errors import InputError
from speechdlm_ext.units.vocabulary import EOS, UNK, Vocabulary

NAMES = {"plain": "{split}.{channel}", "fairseq": "{split}.{channel}-None.{channel}"}


def target_files(
    folder: Path, splits: Sequence[str], channels: Sequence[str], names: str, overwrite: bool
) -> dict[tuple[str, str], Path]:
    """The files to be written, without ``.bin`` and ``.idx``, by split and channel."""
    there = [folder / f"dict.{channel}.txt" for channel in channels]
    for split in splits:
        for channel in channels:
            there += [folder / f"{n.format(split=split, channel=channel)}.idx" for n in NAMES.values()]
    found = [path for path in there if path.exists()]
    if found and not overwrite:
        raise InputError(f"{found[0]} is there already: pass --overwrite to replace what is in {folder}")
    template = NAMES[names]
    return {(s, c): folder / template.format(split=s, channel=c) for s in splits for c in channels}


def write_binarized(path: Path, prefixes: Sequence[str], lines: int, vocabulary: Vocabulary) -> None:
    """Write ``.bin``, the ids of all lines after one another, and ``.idx``, where each line begins."""
    kind = np.dtype(np.uint16 if vocabulary.type_code == 8 else np.uint32)
    with open(f"{path}.bin", "wb") as data, open(f"{path}.idx", "wb") as index:
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, vocabulary.type_code, lines))
        begin = 0
        begins_at = index.tell() + 4 * lines
        for prefix in prefixes:
            words, numbers, sizes = read_numbers(prefix)
            ids = [EOS if word == END else vocabulary.ids.get(word, UNK) for word in words]
            write_array(data, np.array(ids, kind)[numbers])
            sizes_at = index.tell()
            write_array(index, sizes)
            index.seek(begins_at)
            ends = begin + np.cumsum(sizes, dtype=np.int64) * kind.itemsize
            write_array(index, ends - sizes * np.int64(kind.itemsize))
            begin, begins_at = int(ends[-1]) if len(ends) else begin, index.tell()
            index.seek(sizes_at + sizes.nbytes)
            for ending in ("codes", "words", "sizes"):
                os.unlink(f"{prefix}.{ending}")
        for file in (data, index):
            file.flush()
            os.fsync(file.fileno())


def install(work: Path, folder: Path, files: Mapping[tuple[str, str], Path], channels: Sequence[str]) -> None:
    """Move what is whole to its place, the dictionaries last; files that would be read instead are removed."""
    for channel in channels:
        old, new = (place / f"dict.{channel}.txt" for place in (folder, work))
        if old.exists() and old.read_bytes() != new.read_bytes():
            mine = {n.format(split=s, channel=c) for s, c in files for n in NAMES.values()}
            others = [path for path in sorted(folder.glob(f"*.{channel}.idx")) if path.name[:-4] not in mine]
            if others:
                raise InputError(
                    f"{old} would change, and {others[0]} was made with it: delete that, or binarize it as well"
                )
    for (split, channel), path in files.items():
        for template in NAMES.values():
            other = folder / template.format(split=split, channel=channel)
            for ending in (".bin", ".idx"):
                if other != path:
                    Path(f"{other}{ending}").unlink(missing_ok=True)
        for ending in (".bin", ".idx"):
            os.replace(work / f"{path.name}{ending}", f"{path}{ending}")
    for channel in channels:
        os.replace(work / f"dict.{channel}.txt", folder / f"dict.{channel}.txt")
