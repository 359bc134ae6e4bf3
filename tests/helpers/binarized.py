"""Units as fairseq-preprocess leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

# Of fairseq's ids 4, 5, … in this order; one unit never occurs.
SYMBOLS = (3, 0, 5, 1, 4)


def write_lines(path: Path, lines: list[list[int]], dtype: type = np.int32) -> str:
    """Lines of ids in fairseq's memory-mapped format; each gets its ``</s>``."""
    import torch

    builder = MMapIndexedDatasetBuilder(f"{path}.bin", dtype=dtype)
    for line in lines:
        builder.add_item(torch.tensor([*line, 2]))
    builder.finalize(f"{path}.idx")
    return str(path)


def write_corpus(folder: Path, lines: list[list[int]], channel: str = "", durations: bool = False) -> Path:
    """Lines of units as fairseq-preprocess would leave them; the duration of unit u at place t is 1 + (u + t) % 3."""
    folder.mkdir(exist_ok=True)
    dot = f".{channel}" if channel else ""
    dictionary = Dictionary()
    for unit in SYMBOLS:
        dictionary.add_symbol(str(unit))
    dictionary.save(str(folder / f"dict{dot}.txt"))
    write_lines(folder / f"train{dot}", [[4 + SYMBOLS.index(unit) for unit in line] for line in lines])
    if durations:
        frames = Dictionary()
        for duration in (2, 1, 3):
            frames.add_symbol(str(duration))
        frames.save(str(folder / f"dict{dot}.durations.txt"))
        ids = {2: 4, 1: 5, 3: 6}
        said = [[ids[1 + (unit + t) % 3] for t, unit in enumerate(line)] for line in lines]
        write_lines(folder / f"train{dot}.durations", said)
    return folder
