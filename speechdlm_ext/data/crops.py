"""Short parts of one channel of a recording, read without what lies around them."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import RESAMPLER_REACH, resample
from speechdlm_ext.io.readers import open_audio


def read_crop(
    path: str | os.PathLike[str], channel: int, first: int, count: int, sample_rate: int, file_rate: int
) -> Tensor:
    """Samples of one channel at another rate; those beyond the ends of the file are zeros.

    Args:
        path: the audio file.
        channel: its number from 0.
        first: the first sample, at ``sample_rate``.
        count: how many.
        sample_rate: to make, in Hz.
        file_rate: the file's, in Hz.

    Returns:
        Samples (count,), float32: those of the whole file, resampled.

    Raises:
        InputError: the file cannot be read, or has not so many channels.
    """
    divisor = math.gcd(sample_rate, file_rate)
    up, down = sample_rate // divisor, file_rate // divisor
    # Blocks of `up` samples are `down` samples of the file; the filter needs some to both sides.
    reach = 0 if up == down else -(-RESAMPLER_REACH * max(up, down) // (up * down)) + 1
    begin = first // up - reach
    end = -(-(first + count) // up) + reach
    made = resample(_read(path, channel, begin * down, end * down), file_rate, sample_rate)
    start = first - begin * up
    return made[start : start + count]


def _read(path: str | os.PathLike[str], channel: int, first: int, last: int) -> Tensor:
    """Samples (n,) of a file from number ``first``, which may be negative, to ``last``, which may be beyond its end."""
    samples = np.zeros(last - first, dtype=np.float32)
    with open_audio(path) as file:
        if channel >= file.channels:
            raise InputError(f"{path} has {file.channels} channels, channel {channel + 1} is needed")
        start, stop = max(first, 0), min(last, file.frames)
        if start < stop:
            block = file.read(start, stop)
            samples[start - first : start - first + len(block)] = block[:, channel]
    return torch.from_numpy(samples)
