"""Short parts of one channel of a recording, read without what lies around them."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import resample

# Half length of the resampling filter, in periods of the slower rate, and a little more.
_FILTER_PERIODS = 12


def read_crop(
    path: str | os.PathLike[str], channel: int, first: int, count: int, sample_rate: int, file_rate: int
) -> Tensor:
    """Samples of one channel at a wanted rate; those beyond the ends of the file are zeros.

    Args:
        path: the audio file.
        channel: its number from 0.
        first: the first sample wanted, at ``sample_rate``.
        count: how many.
        sample_rate: wanted, in Hz.
        file_rate: the file's, in Hz.

    Returns:
        Samples (count,), float32: those of the whole file, resampled.

    Raises:
        InputError: the file cannot be read, or has not so many channels.
    """
    divisor = math.gcd(sample_rate, file_rate)
    up, down = sample_rate // divisor, file_rate // divisor
    # Blocks of `up` samples wanted are `down` samples of the file; the filter needs some to both sides.
    reach = 0 if up == down else -(-_FILTER_PERIODS * max(up, down) // (up * down)) + 1
    begin = first // up - reach
    end = -(-(first + count) // up) + reach
    found = _read(path, channel, begin * down, (end - begin) * down)
    made = resample(found, file_rate, sample_rate)
    start = first - begin * up
    return made[start : start + count]


def _read(path: str | os.PathLike[str], channel: int, first: int, count: int) -> Tensor:
    """Samples (count,) of a file from number ``first``, which may be negative."""
    import soundfile

    samples = np.zeros(count, dtype=np.float32)
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            if channel >= file.channels:
                raise InputError(f"{path} has {file.channels} channels, channel {channel + 1} is wanted")
            start = max(first, 0)
            wanted = min(first + count, file.frames) - start
            if wanted > 0:
                file.seek(start)
                block = file.read(wanted, dtype="float32", always_2d=True)
                samples[start - first : start - first + len(block)] = block[:, channel]
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return torch.from_numpy(samples)
