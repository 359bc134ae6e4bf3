"""Audio files: what is in them, reading whole or by blocks, resampling, and writing."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write

if TYPE_CHECKING:  # torch is imported where it is needed, so that a command's --help does not wait for it
    import torch

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
BLOCK_SECONDS = 30.0
_BLOCK_SAMPLES = 1 << 20  # of each channel, written at a time
_LARGEST_WAV = (1 << 32) - 1 - 44  # bytes of samples: sizes in the header have 32 bits
# Half length of the resampling filter, in periods of the slower of the two rates.
_FILTER_PERIODS = 10


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes:
        path: the file.
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel.
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | os.PathLike[str]) -> AudioInfo:
    """Read the header of an audio file (wav, flac, ogg, mp3 and whatever else libsndfile knows).

    Raises:
        InputError: the file is missing, a folder, unreadable, not audio, cut off, or has no samples.
    """
    with _open(path) as file:
        return AudioInfo(Path(path), file.samplerate, file.channels, file.frames)


def read_audio(
    path: str | os.PathLike[str], sample_rate: int | None = None, channels: int | None = None
) -> tuple[torch.Tensor, int]:
    """Read a whole audio file.

    Args:
        path: the file.
        sample_rate: wanted rate in Hz; a file of another rate is resampled. None keeps the file's.
        channels: wanted number of channels; None takes what there is.

    Returns:
        Samples (C, N), float32, full scale at ±1, and their rate in Hz. ``N`` is ``resampled_length`` of the file's.

    Raises:
        InputError: as :func:`audio_info`, or the number of channels is another, or a sample is not a finite number.
    """
    import torch

    info = audio_info(path)
    blocks = list(read_blocks(path, sample_rate, channels))
    return torch.cat(blocks, dim=1), sample_rate or info.sample_rate


def read_blocks(
    path: str | os.PathLike[str],
    sample_rate: int | None = None,
    channels: int | None = None,
    block_seconds: float = BLOCK_SECONDS,
) -> Iterator[torch.Tensor]:
    """Read an audio file in blocks (C, n) that, joined, are what :func:`read_audio` gives; memory stays bounded.

    Args:
        path: the file.
        sample_rate: wanted rate in Hz; None keeps the file's.
        channels: wanted number of channels; None takes what there is.
        block_seconds: length of a block in seconds.

    Raises:
        InputError: as :func:`read_audio`, when the block in question is reached.
    """
    with _open(path) as file:
        if channels is not None and file.channels != channels:
            raise InputError(
                f"{path} has {file.channels} channel{'s' * (file.channels != 1)}, {channels} "
                f"{'is' if channels == 1 else 'are'} needed: {_channel_advice(file.channels, channels)}"
            )
        blocks = _file_blocks(path, file, max(1, round(block_seconds * file.samplerate)))
        if sample_rate is None or sample_rate == file.samplerate:
            yield from blocks
        else:
            yield from resample_blocks(blocks, file.samplerate, sample_rate)


def resampled_length(frames: int, from_hz: int, to_hz: int) -> int:
    """Samples after resampling: ``ceil(frames * to_hz / from_hz)``."""
    return -(-frames * to_hz // from_hz)


def resample(wave: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """Resample with scipy's polyphase filter (zero phase, Kaiser window).

    Args:
        wave: samples (…, N).
        from_hz: their rate in Hz.
        to_hz: wanted rate in Hz.

    Returns:
        Samples (…, ``resampled_length(N, from_hz, to_hz)``), float32.
    """
    if from_hz == to_hz:
        return wave
    import torch
    from scipy.signal import resample_poly

    up, down = _ratio(from_hz, to_hz)
    return torch.from_numpy(resample_poly(wave.numpy(), up, down, axis=-1).astype("float32", copy=False))


def resample_blocks(blocks: Iterable[torch.Tensor], from_hz: int, to_hz: int) -> Iterator[torch.Tensor]:
    """Resample a stream of blocks (C, n); joined, the result is that of :func:`resample` on the joined blocks."""
    import torch

    up, down = _ratio(from_hz, to_hz)
    # Each piece is filtered with the filter's reach on both sides, cut where input and output samples coincide.
    reach = -(-(_FILTER_PERIODS * max(up, down) // up + 1) // down) * down
    held, before = None, 0  # samples not yet done with, and how many of them are context of the next piece
    for block in blocks:
        held = block if held is None else torch.cat((held, block), dim=1)
        ready = (held.shape[1] - before - reach) // down * down
        if ready < reach:
            continue
        piece = resample(held[:, : before + ready + reach], from_hz, to_hz)
        yield piece[:, before * up // down : (before + ready) * up // down]
        held = held[:, before + ready - reach :]
        before = reach
    if held is not None and held.shape[1] > before:
        yield resample(held, from_hz, to_hz)[:, before * up // down :]


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


def _ratio(from_hz: int, to_hz: int) -> tuple[int, int]:
    if from_hz <= 0 or to_hz <= 0:
        raise InputError(f"sample rates must be positive, found {from_hz} Hz and {to_hz} Hz")
    divisor = math.gcd(from_hz, to_hz)
    return to_hz // divisor, from_hz // divisor


def _open(path: str | os.PathLike[str]) -> Any:
    """An open ``soundfile.SoundFile`` with samples in it."""
    import soundfile

    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder, an audio file is wanted")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    if not os.path.getsize(path):
        raise InputError(f"{path} is empty (0 bytes)")
    try:
        # As bytes where names are bytes: soundfile itself refuses those that are not UTF-8.
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else os.fspath(path))
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise InputError(f"{path} is not audio that can be read ({reason}): wav, flac, ogg or mp3 is wanted") from None
    if file.frames <= 0 or file.channels <= 0 or file.samplerate <= 0:
        file.close()
        raise InputError(f"{path} has no samples")
    if _is_cut_off(file.extra_info):
        file.close()
        raise InputError(f"{path} is cut off: it is shorter than its header says; copy it again")
    return file


def _is_cut_off(log: str) -> bool:
    """Whether libsndfile's log of opening a file says that its end is missing.

    A wav header that was written before the length was known (a pipe) names a length near 2 or 4 GiB, and is in order.
    """
    sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if sizes and int(sizes[2]) < int(sizes[1]) < 0x7FFFF000:
        return True
    return "Junk after the last page" in log and "lacks an end-of-stream bit" in log


def _file_blocks(path: str | os.PathLike[str], file: Any, frames: int) -> Iterator[torch.Tensor]:
    import numpy as np
    import soundfile
    import torch

    done = 0
    while done < file.frames:
        try:
            block = file.read(min(frames, file.frames - done), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path} is damaged after {done / file.samplerate:.2f} s ({error.error_string})") from None
        if not len(block):
            raise InputError(
                f"{path} is cut off: {done / file.samplerate:.2f} s of "
                f"{file.frames / file.samplerate:.2f} s can be read; copy it again"
            )
        if not np.isfinite(block).all():
            first = int(np.argmin(np.isfinite(block).all(axis=1))) + done
            raise InputError(f"{path} has a sample that is not a number, first at {first / file.samplerate:.3f} s")
        done += len(block)
        yield torch.from_numpy(np.ascontiguousarray(block.T))


def _channel_advice(found: int, wanted: int) -> str:
    if found == 1 and wanted == 2:
        return "join the two sides of the conversation into one stereo file"
    return f"pass --channels {found} or convert the file"
