"""Speech detection by silero-vad (github.com/snakers4/silero-vad, MIT), as published.

The package takes one window of 32 ms a call. Its network for 16 kHz is here once more, for whole recordings, which is
many times faster; where the installed package has other weights than this network, the package's own is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.vad.base import Detector, Speech

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16000  # Hz
WINDOW = 512  # samples of a decision
CONTEXT = 64  # samples before the window that the network sees, too
_WINDOWS_AT_ONCE = 4096  # whose spectra are held in memory: two minutes


@dataclass(frozen=True)
class Silero(Detector):
    """silero-vad with its published thresholds.

    Options are those of the package's ``get_speech_timestamps``, durations in seconds. Speech begins where the
    probability reaches ``threshold``, and ends where it stays below ``threshold - 0.15``.
    """

    name: ClassVar[str] = "silero"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    frame_shift: ClassVar[float] = WINDOW / SAMPLE_RATE

    threshold: float = 0.5
    min_speech: float = 0.25
    min_silence: float = 0.1
    pad: float = 0.03

    def detect(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """See :meth:`Detector.detect`; other rates than 16 kHz are resampled."""
        import torch

        from speechdlm_ext.io.audio import resample

        package, network = _import_package(), load_network()
        samples = torch.as_tensor(wave).float()
        duration = samples.shape[1] / sample_rate
        samples = resample(samples, sample_rate, SAMPLE_RATE)
        if not samples.shape[1]:
            return [[] for _ in samples]
        models = map(_Probabilities, network.probabilities(samples).tolist()) if network else None
        speech = []
        for channel in samples:
            found = package.get_speech_timestamps(
                channel,
                next(models) if models else package.load_silero_vad(),
                threshold=self.threshold,
                sampling_rate=SAMPLE_RATE,
                min_speech_duration_ms=1000 * self.min_speech,
                min_silence_duration_ms=1000 * self.min_silence,
                speech_pad_ms=1000 * self.pad,
            )
            pairs = [(one["start"] / SAMPLE_RATE, min(one["end"] / SAMPLE_RATE, duration)) for one in found]
            speech.append([(round(start, 4), round(end, 4)) for start, end in pairs])
        return speech


class _Probabilities:
    """Probabilities that are known, in the form of the package's model, whose rule then finds the intervals."""

    def __init__(self, values: list[float]) -> None:
        self.values: Iterator[float] = iter(values)

    def reset_states(self) -> None:
        """Called by the package at the start of a recording."""

    def __call__(self, window: torch.Tensor, sample_rate: int) -> torch.Tensor:
        import torch

        return torch.tensor(next(self.values))


class SileroNetwork:
    """The network of silero-vad 5 and 6 for 16 kHz, on the CPU, in float32.

    Args:
        weights: by the names in ``silero_vad.jit`` without ``_model.``.
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        import torch

        self.weights = weights
        self.lstm = torch.nn.LSTM(128, 128, batch_first=True)
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.lstm.load_state_dict({f"{kind}_l0": weights[f"decoder.rnn.{kind}"] for kind in kinds})
        self.lstm.requires_grad_(False)
        self.probabilities(torch.zeros(1, WINDOW))  # raises KeyError or RuntimeError where the weights are others

    def probabilities(self, wave: torch.Tensor) -> torch.Tensor:
        """Probability of speech in each window of 32 ms.

        Args:
            wave: samples (C, N) at 16 kHz, full scale at ±1; the last window is filled up with zeros.

        Returns:
            (C, T) with T = ⌈N / 512⌉.
        """
        import torch

        channels, length = wave.shape
        count = -(-length // WINDOW)
        padded = torch.nn.functional.pad(wave.float(), (CONTEXT, count * WINDOW - length))
        windows = padded.unfold(1, CONTEXT + WINDOW, WINDOW)  # (C, T, 576)
        parts, state = [], None
        with torch.inference_mode():
            for part in windows.split(_WINDOWS_AT_ONCE, dim=1):
                features = self._features(part.flatten(0, 1)).view(channels, -1, 128)
                hidden, state = self.lstm(features, state)
                parts.append(hidden.relu() @ self.weights["decoder.decoder.2.weight"][0, :, 0])
            return (torch.cat(parts, dim=1) + self.weights["decoder.decoder.2.bias"]).sigmoid()

    def _features(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, 576) to (B, 128)."""
        import torch
        from torch.nn import functional as F

        w = self.weights
        spectrum = F.conv1d(F.pad(windows, (0, 64), "reflect")[:, None], w["stft.forward_basis_buffer"], stride=128)
        x = torch.hypot(*spectrum.split(129, dim=1))
        for number, stride in enumerate((1, 2, 2, 1)):
            name = f"encoder.{number}.reparam_conv"
            x = F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=1).relu()
        return x[:, :, 0]


@lru_cache(maxsize=1)
def load_network() -> SileroNetwork | None:
    """The network with the weights of the installed package; None where that has another one.

    Raises:
        InputError: the package is not installed.
    """
    import torch

    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise InputError("silero-vad is not installed: pip install 'speechdlm_ext[eval]', or pass --vad energy")
    try:
        path = Path(spec.origin).parent / "data" / "silero_vad.jit"
        weights = torch.jit.load(path, map_location="cpu").state_dict()  # read, and never run
        return SileroNetwork({k.removeprefix("_model."): v for k, v in weights.items() if k.startswith("_model.")})
    except (KeyError, RuntimeError, ValueError, IndexError):
        return None


def _import_package() -> Any:
    """The package, whose import sets the number of PyTorch's threads to one: it is set back."""
    load_network()  # raises InputError where the package is not installed
    import torch

    threads = torch.get_num_threads()
    try:
        import silero_vad
    finally:
        torch.set_num_threads(threads)
    return silero_vad
