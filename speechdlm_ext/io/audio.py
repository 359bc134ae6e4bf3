"""Audio files: what is in them, reading all, parts or blocks of them, resampling, and writing."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.readers import open_audio
from speechdlm_ext.io.readers.base import AudioReader

if TYPE_CHECKING:  # both are imported where they are needed: commands that need no torch start without it
    import numpy as np
    import torch

RESAMPLER = "soxr-hq"  # part of what units depend on
RESAMPLER_REACH = 100  # half length of its filter, in periods of the slower of the two rates, generously
BLOCK_SECONDS = 30.0
MIN_DC = 1e-3  # of full scale: the mean of a channel that is DC; of recorded speech it is below 0.0005
_CHANCE = 5.0  # standard deviations of the mean of as much noise
_LEEWAY = 0.1  # seconds
_BLOCK_SAMPLES = 1 << 20  # of each channel, written at a time
_LARGEST_WAV = (1 << 32) - 1 - 44  # bytes of samples: sizes in the header have 32 bits


@dataclass(frozen=True)
class AudioInfo:
    """What is in an audio file.

    Attributes:
        path: the file.
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel that there are, whatever the header says.
        notes: what the header says of the length that is not so.
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | os.PathLike[str]) -> AudioInfo:
    """What is in an audio file; see :class:`AudioInfo`.

    Raises:
        InputError: the file is missing, a folder, unreadable, not audio, or has no samples.
    """
    with open_audio(path) as file:
        return AudioInfo(Path(path), file.sample_rate, file.channels, file.frames, tuple(file.notes))


def read_audio(
    path: str | os.PathLike[str],
    sample_rate: int | None = None,
    channels: int | None = None,
    start: float = 0.0,
    stop: float | None = None,
) -> tuple[torch.Tensor, int]:
    """Read an audio file, or a part of it.

    Args:
        path: the file.
        sample_rate: in Hz; a file of another rate is resampled. None keeps the file's.
        channels: the number of channels that the file must have; None takes what there is.
        start: where to begin, in seconds.
        stop: where to end, in seconds; None for the end of the file, which is never passed.

    Returns:
        Samples (C, N), float32, full scale at ±1, and their rate in Hz. ``N`` is ``resampled_length`` of the file's.

    Raises:
        InputError: as :func:`audio_info`, or the number of channels is another, a sample is not a finite number, or
            there is no sample between ``start`` and ``stop``.
    """
    import torch

    blocks = list(read_blocks(path, sample_rate, channels, start=start, stop=stop))
    return torch.cat(blocks, dim=1), sample_rate or audio_info(path).sample_rate


def read_blocks(
    path: str | os.PathLike[str],
    sample_rate: int | None = None,
    channels: int | None = None,
    block_seconds: float = BLOCK_SECONDS,
    start: float = 0.0,
    stop: float | None = None,
) -> Iterator[torch.Tensor]:
    """Read an audio file in blocks (C, n) that, joined, are what :func:`read_audio` gives; memory stays bounded.

    Args:
        path, sample_rate, channels, start, stop: as :func:`read_audio` has them.
        block_seconds: length of a block in seconds.

    Raises:
        InputError: as :func:`read_audio`, when the block in question is reached.
    """
    import torch

    return map(torch.from_numpy, read_arrays(path, sample_rate, channels, block_seconds, start, stop))


def read_arrays(
    path: str | os.PathLike[str],
    sample_rate: int | None = None,
    channels: int | None = None,
    block_seconds: float = BLOCK_SECONDS,
    start: float = 0.0,
    stop: float | None = None,
) -> Iterator[np.ndarray]:
    """As :func:`read_blocks`, in arrays of NumPy."""
    with open_audio(path) as file:
        yield from file_arrays(file, sample_rate, channels, block_seconds, start, stop)


def file_arrays(
    file: AudioReader,
    sample_rate: int | None = None,
    channels: int | None = None,
    block_seconds: float = BLOCK_SECONDS,
    start: float = 0.0,
    stop: float | None = None,
) -> Iterator[np.ndarray]:
    """As :func:`read_arrays`, of a file that is open."""
    check_channels(file.path, file.channels, channels)
    first = round(start * file.sample_rate)
    last = file.frames if stop is None else min(round(stop * file.sample_rate), file.frames)
    if not 0 <= first < last:
        end = "" if stop is None else f" to {stop:g}"
        raise InputError(f"{file.path} has no samples from {start:g}{end} s: it is {file.duration:g} s")
    blocks = _file_blocks(file, first, last, max(1, round(block_seconds * file.sample_rate)))
    if sample_rate is None or sample_rate == file.sample_rate:
        yield from blocks
    else:
        yield from resample_blocks(blocks, file.sample_rate, sample_rate)


def dc_of(means: np.ndarray, powers: np.ndarray, frames: int, sample_rate: int) -> np.ndarray:
    """The DC of channels (C,): their means, and 0 where a mean may be chance: small, or of little or of loud sound.

    Args:
        means, powers: mean and mean square of each channel (C,).
        frames: samples that they are of.
        sample_rate: in Hz.
    """
    import numpy as np

    chance = _CHANCE * np.sqrt((powers - means**2).clip(0) / frames)
    return means * (np.abs(means) >= chance.clip(MIN_DC / min(1.0, frames / sample_rate)))


def without_dc(blocks: Iterable[np.ndarray], sample_rate: int) -> Iterator[np.ndarray]:
    """Blocks (C, n) without the DC of their channels, by the mean of the first block that is not silent.

    Channels whose mean is below ``MIN_DC``, as nearly all are, stay as they are to the last bit.
    """
    import numpy as np

    dc = None
    for block in blocks:
        if dc is None:
            means = block.mean(axis=1, dtype="float64")
            if np.abs(means).max() >= MIN_DC:
                powers = (block * block).mean(axis=1, dtype="float64")
                dc = dc_of(means, powers, block.shape[1], sample_rate).astype(np.float32)[:, None]
            elif block.any():
                dc = np.zeros((len(block), 1), np.float32)
        yield block if dc is None or not dc.any() else block - dc


def resampled_length(frames: int, from_hz: int, to_hz: int) -> int:
    """Samples after resampling: ``ceil(frames * to_hz / from_hz)``."""
    return -(-frames * to_hz // from_hz)


def resample(wave: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """Resample with soxr's HQ filter (zero phase; 100 dB down above the lower Nyquist frequency).

    Args:
        wave: samples (…, N).
        from_hz: their rate in Hz.
        to_hz: the rate to make, in Hz.

    Returns:
        Samples (…, ``resampled_length(N, from_hz, to_hz)``), float32.
    """
    if from_hz == to_hz:
        return wave
    import numpy as np
    import torch

    rows = wave.reshape(-1, wave.shape[-1]).detach().cpu().numpy()
    made = np.concatenate(list(resample_blocks([rows], from_hz, to_hz)), axis=1)
    return torch.from_numpy(made).view(*wave.shape[:-1], -1)


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Resample a stream of blocks (C, n); joined, the result is that of :func:`resample` on the joined blocks."""
    import numpy as np
    import soxr

    if from_hz <= 0 or to_hz <= 0:
        raise InputError(f"sample rates must be positive, found {from_hz} Hz and {to_hz} Hz")
    stream, taken, given = None, 0, 0
    for block in blocks:
        stream = stream or soxr.ResampleStream(from_hz, to_hz, len(block), dtype="float32", quality="HQ")
        taken += block.shape[1]
        made = stream.resample_chunk(np.ascontiguousarray(block.T, dtype=np.float32))
        given += len(made)
        if len(made):
            yield np.ascontiguousarray(made.T)
    if stream is None:
        return
    # Silence behind the end, so that the last sample comes out, which soxr rounds off; what is more is cut away.
    silence = np.zeros((2 + -(-2 * from_hz // to_hz), len(block)), np.float32)
    rest = stream.resample_chunk(silence, last=True)[: max(0, resampled_length(taken, from_hz, to_hz) - given)]
    yield np.ascontiguousarray(rest.T)


def write_audio(path: str | os.PathLike[str], wave: torch.Tensor, sample_rate: int) -> float:
    """Write a 16-bit PCM wav file, whole or not at all.

    Sound beyond full scale is turned down as a whole rather than clipped.

    Args:
        path: the file to write.
        wave: samples (C, N) or (N,), full scale at ±1.
        sample_rate: in Hz.

    Returns:
        The gain that was applied: 1.0, or less where the peak was beyond full scale.

    Raises:
        InputError: there are no samples, or one is not a finite number.
        OSError: the folder cannot be written to, or the disk is full.
    """
    import wave as wav_files

    import numpy as np
    import torch

    wave = wave.detach().to("cpu", torch.float32)
    wave = wave[None] if wave.dim() == 1 else wave
    if not wave.numel():
        raise InputError(f"{path}: no samples to write")
    lowest, highest = (float(bound) for bound in wave.aminmax())
    peak = max(-lowest, highest)
    if not math.isfinite(peak):
        raise InputError(f"{path}: samples to write are not all finite numbers")
    if 2 * wave.numel() > _LARGEST_WAV:
        raise InputError(
            f"{path}: {wave.shape[1] / sample_rate / 3600:.1f} h are more than a wav file can hold (4 GiB)"
        )
    gain = 1.0 if peak <= 1 else 1.0 / peak
    # By Python, as libsndfile cannot tell a full disk from other faults; block by block, as hours of sound are large.
    with atomic_write(path, "wb") as target, wav_files.open(target, "wb") as file:
        file.setnchannels(len(wave))
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.setnframes(wave.shape[1])  # known in advance: the header is not written twice
        for block in wave.split(_BLOCK_SAMPLES, dim=1):
            file.writeframesraw(np.rint(block.numpy().T * (gain * 32767)).astype("<i2").tobytes())
    return gain


def _file_blocks(file: AudioReader, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    import numpy as np

    while start < stop:
        block = file.read(start, min(start + size, stop))
        if not len(block):
            if (file.frames - start) / file.sample_rate < _LEEWAY:  # a last frame that the decoder does not give
                return
            raise InputError(
                f"{file.path} is damaged after {start / file.sample_rate:.2f} s of "
                f"{file.frames / file.sample_rate:.2f} s; copy it again"
            )
        if not np.isfinite(block).all():
            first = int(np.argmin(np.isfinite(block).all(axis=1))) + start
            raise InputError(
                f"{file.path} has a sample that is not a number, first at {first / file.sample_rate:.3f} s"
            )
        start += len(block)
        yield np.ascontiguousarray(block.T)


def check_channels(path: str | os.PathLike[str], found: int, expected: int | None) -> None:
    """Raise an :class:`InputError` unless a file has as many channels as expected; None expects nothing."""
    if expected is None or found == expected:
        return
    advice = f"pass --channels {found} or convert the file"
    if (found, expected) == (1, 2):
        advice = "join the two sides of the conversation into one stereo file"
    needed = f"{expected} {'is' if expected == 1 else 'are'} needed"
    raise InputError(f"{path} has {found} channel{'s' * (found != 1)}, {needed}: {advice}")
