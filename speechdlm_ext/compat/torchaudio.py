"""torchaudio: its extension is optional, and fairseq's audio reading does without sox_effects."""

from __future__ import annotations

from typing import Any

from .repair import Repair, at_least, installed_version, replace


def _make_extension_optional(module: Any) -> None:
    load_library = module._load_lib

    @replace(module, "_load_lib")
    def load_if_it_fits(lib: str) -> bool:
        try:
            return bool(load_library(lib))
        except OSError:
            # Built for a CUDA that this torch does not have. torchaudio's Python parts work without it.
            return False


def _convert_waveform(
    waveform: Any,
    sample_rate: int,
    normalize_volume: bool = False,
    to_mono: bool = False,
    to_sample_rate: int | None = None,
) -> tuple[Any, int]:
    """Volume, rate and channels of a waveform (C, N), numpy array or tensor, in the order in which sox did them.

    Args:
        waveform: samples (C, N).
        sample_rate: of the waveform, in Hz.
        normalize_volume: scale to a peak of 1, as "gain -n" of sox does.
        to_mono: mix down to one channel, as "channels 1" of sox does.
        to_sample_rate: expected rate in Hz; None keeps the rate.

    Returns:
        The waveform (C', N') of the same kind, and its rate in Hz.
    """
    import numpy
    import torch

    wave = torch.from_numpy(waveform) if isinstance(waveform, numpy.ndarray) else waveform
    if normalize_volume and wave.numel():
        peak = wave.abs().max()
        wave = wave / peak if peak > 0 else wave
    if to_sample_rate is not None and to_sample_rate != sample_rate:
        from torchaudio.functional import resample

        wave = resample(wave, sample_rate, to_sample_rate)
        sample_rate = to_sample_rate
    if to_mono and wave.shape[0] > 1:
        wave = wave.mean(dim=0, keepdim=True)
    return (wave.numpy() if isinstance(waveform, numpy.ndarray) else wave), sample_rate


def _do_without_sox(module: Any) -> None:
    replace(module, "convert_waveform")(_convert_waveform)


def _load_by_soundfile(
    uri: Any, frame_offset: int = 0, num_frames: int = -1, channels_first: bool = True, **others: Any
) -> tuple[Any, int]:
    """What torchaudio.load gives: samples (C, N), or (N, C), float32, and their rate in Hz."""
    import soundfile
    import torch

    samples, rate = soundfile.read(uri, num_frames, frame_offset, dtype="float32", always_2d=True)
    wave = torch.from_numpy(samples)
    return (wave.T.contiguous() if channels_first else wave), rate


def _save_by_soundfile(
    uri: Any, src: Any, sample_rate: int, channels_first: bool = True, format: str | None = None, **others: Any
) -> None:
    """What torchaudio.save does, with the precision that soundfile takes by default for the format."""
    import soundfile

    samples = src.detach().cpu().float()
    soundfile.write(uri, (samples.T if channels_first else samples).numpy(), sample_rate, format=format)


def _do_without_torchcodec(module: Any) -> None:
    replace(module, "load_with_torchcodec")(_load_by_soundfile)
    replace(module, "save_with_torchcodec")(_save_by_soundfile)


REPAIRS = [
    Repair(
        name="torchaudio-extension",
        package="torchaudio",
        fault="OSError: Could not load this library: …_torchaudio.abi3.so "
        "(a CUDA build of torchaudio beside a CPU build of torch)",
        versions="torchaudio ≥ 2.0",
        needed=lambda: at_least("torchaudio", 2),
        changes={"torchaudio._extension.utils": _make_extension_optional},
    ),
    Repair(
        name="sox-effects",
        package="fairseq",
        fault="ImportError: Please install torchaudio (get_waveform asks for torchaudio.sox_effects)",
        versions="torchaudio ≥ 2.9",
        needed=lambda: at_least("torchaudio", 2, 9),
        changes={"fairseq.data.audio.audio_utils": _do_without_sox},
    ),
    Repair(
        name="torchaudio-load",
        package="torchaudio",
        fault="ImportError: TorchCodec is required for load_with_torchcodec (torchaudio.load and save)",
        versions="torchaudio ≥ 2.9, without torchcodec",
        needed=lambda: at_least("torchaudio", 2, 9) and installed_version("torchcodec") is None,
        changes={"torchaudio": _do_without_torchcodec},
    ),
]
