"""Recordings beside their resynthesis: where speech and silence are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.output_paths import MirrorPaths
from speechdlm_ext.io.recordings import recording_blocks
from speechdlm_ext.metrics.agreement import Agreement, compare_sounds
from speechdlm_ext.metrics.intervals import Interval

_SAMPLE_RATE = 16000


def compare_resynthesis(
    rows: Sequence[Mapping[str, Any]],
    dataset: str,
    output: str | os.PathLike[str],
    listen: Callable[[NDArray[np.float32], int], list[list[Interval]]],
) -> Iterator[tuple[str, str, list[Agreement]]]:
    """Compare every recording with the wav file that ``resynthesize`` made of it.

    Args:
        rows, dataset, output: as ``resynthesize`` was given them.
        listen: a detector of speech, see :func:`compare_sounds`.

    Yields:
        For each recording its id, its folder below the data set, and an :class:`Agreement` for each channel.

    Raises:
        InputError: a recording or what was made of it cannot be read, or their lengths or channels differ.
    """
    mirror = MirrorPaths(rows, dataset, output)
    for row in rows:
        path = mirror(row)
        if not path.is_file():
            raise InputError(f"{path} is missing: scripts/resynthesize.py makes it")
        source = torch.cat(list(recording_blocks(row, _SAMPLE_RATE)), dim=1)
        made, _ = read_audio(path, _SAMPLE_RATE)
        try:
            channels = compare_sounds(source.numpy(), made.numpy(), _SAMPLE_RATE, listen)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        folder = path.parent.relative_to(os.path.join(output, dataset)).as_posix()
        yield str(row["id"]), folder, channels
