"""One channel of binarized units as one long stream, read from disk as it is asked for."""

from __future__ import annotations

import os

import numpy as np
from fairseq.data.indexed_dataset import MMapIndexedDataset, data_file_path, index_file_path

from speechdlm_ext.errors import InputError

# How an index in this format begins.
_MAGIC = b"MMIDIDX\x00\x00"


def find_binarized(folder: str, split: str, channel: str) -> str:
    """Path, without its ending, of a channel of a split, under the published name or the one fairseq-preprocess gives.

    A channel ``""`` is what fairseq-preprocess writes when no language is named: ``<split>.bin``.

    Raises:
        InputError: there is none; the message names the files that were looked for.
    """
    names = [f"{split}.{channel}", f"{split}.{channel}-None.{channel}"] if channel else [split]
    for name in names:
        path = os.path.join(folder, name)
        if os.path.exists(index_file_path(path)) and os.path.exists(data_file_path(path)):
            return path
    looked_for = f"neither {names[0]}.bin and .idx nor {names[1]}.bin and .idx are" if channel else f"no {split}.bin is"
    of_channel = f" of channel {channel}" if channel else ""
    raise InputError(
        f"{folder}: split {split}{of_channel} is missing: {looked_for} there; fairseq-preprocess writes them"
    )


class UnitStream:
    """Units of one channel, all lines after one another, memory-mapped.

    Args:
        path: what ``fairseq-preprocess`` wrote, without ``.bin`` and ``.idx``.

    Attributes:
        sizes: length of each line in frames, ``</s>`` included, ``(lines,)``.
        ends: where each line ends in the stream, ``(lines,)``.

    Raises:
        InputError: a file that is not in fairseq's memory-mapped format, or that was cut.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        path = index_file_path(self.path)
        with open(path, "rb") as file:
            known = file.read(len(_MAGIC)) == _MAGIC
        try:
            index = MMapIndexedDataset.Index(path) if known else None
        except (AssertionError, ValueError, KeyError):
            index = None
        if index is None:
            raise InputError(
                f"{path}: not a memory-mapped index of fairseq, or cut short: binarize again, with fairseq-preprocess "
                "--dataset-impl mmap (the default)"
            )
        self.sizes = np.array(index.sizes, dtype=np.int64)
        self.ends = np.cumsum(self.sizes)
        self._units = np.zeros(0, dtype=index.dtype)
        if len(self):
            try:
                self._units = np.memmap(data_file_path(self.path), mode="r", dtype=index.dtype, order="C")
            except ValueError as error:
                raise InputError(f"{data_file_path(self.path)}: cannot be read ({error}): binarize again") from None
        if len(self._units) != len(self):
            raise InputError(
                f"{data_file_path(self.path)}: {len(self._units)} frames, its index says {len(self)}: the file was "
                "cut, binarize again"
            )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> str:
        return self.path  # a worker process maps the file itself

    def __setstate__(self, path: str) -> None:
        self.path = path
        self._open()

    def read(self, start: int, end: int) -> np.ndarray:
        """Units of the frames ``start`` to ``end`` as int64; beyond the stream's end there are none."""
        return np.asarray(self._units[start:end], dtype=np.int64)

    def line_of(self, frame: int) -> int:
        """Which line a frame of the stream belongs to."""
        return int(np.searchsorted(self.ends, frame, side="right"))

    def starts_line(self, frame: int) -> bool:
        """Whether a line starts at the frame."""
        return frame == 0 or bool(self.ends[max(self.line_of(frame) - 1, 0)] == frame)
