"""Speech activity by silero-vad: a small network for speech in any language, its weights within the package.

The network is that of the package (github.com/snakers4/silero-vad, version 6, MIT), fed by whole recordings: the
package's own entry takes one window of 32 ms a call, which is many times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.metrics.intervals import Interval, bridge_silences
from speechdlm_ext.vad.edges import EdgeOptions, refine_edges
from speechdlm_ext.vad.energy import SpeechRule, speech_stretches
from speechdlm_ext.vad.levels import FRAME_SHIFT as LEVEL_SHIFT
from speechdlm_ext.vad.levels import ChannelLevels, measure_levels

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16000  # Hz
WINDOW = 512  # samples of a decision
CONTEXT = 64  # samples before the window that the network sees, too
FRAME_SHIFT = WINDOW / SAMPLE_RATE  # seconds
_TOGETHER = 4096  # windows whose spectra are held at once: two minutes


@dataclass(frozen=True)
class SileroOptions:
    """Thresholds of :func:`detect_speech_silero`; times in seconds.

    There is speech where the probability exceeds ``rise``, and while it then exceeds ``fall``; when exactly it begins
    and ends, and where it pauses, the level says (:mod:`.edges`). The package's own defaults (0.5, 0.35, at least
    0.25 s, padded by 30 ms) serve recognisers: they lose short backchannels, and let speech end late. Ours were chosen
    on made conversations for boundaries and for true rates, which were then measured on others (docs/evaluation.md).
    """

    rise: float = 0.5
    fall: float = 0.35
    shortest_speech: float = 0.06
    shortest_silence: float = 0.13
    edge_above_noise: float = EdgeOptions.above_noise
    edge_below_loud: float = EdgeOptions.below_loud
    edge_reach: float = EdgeOptions.reach

    def edges(self) -> EdgeOptions:
        """How beginnings and ends are found."""
        return EdgeOptions(
            above_noise=self.edge_above_noise,
            below_loud=self.edge_below_loud,
            reach=self.edge_reach,
            doubt=self.rise,
        )


class SileroNetwork:
    """The network, on the CPU, in float32.

    Args:
        weights: of the package's model for 16 kHz, by the names in ``silero_vad.jit`` without ``_model.``.
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        import torch

        self.weights = weights
        self.lstm = torch.nn.LSTM(128, 128, batch_first=True)
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.lstm.load_state_dict({f"{kind}_l0": weights[f"decoder.rnn.{kind}"] for kind in kinds})
        self.lstm.requires_grad_(False)

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
            for part in windows.split(_TOGETHER, dim=1):
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
def load_network() -> SileroNetwork:
    """The network with the weights of the installed package.

    Raises:
        InputError: the package is not installed, or has no such weights.
    """
    import torch

    spec = find_spec("silero_vad")  # found, not imported: its import sets the number of PyTorch's threads
    if spec is None or spec.origin is None:
        raise InputError("silero-vad is not installed: pip install 'speechdlm_ext[eval]', or choose --vad energy")
    path = Path(spec.origin).parent / "data" / "silero_vad.jit"
    if not path.is_file():
        raise InputError(f"{path} is missing: install silero-vad 6 again, or choose --vad energy")
    weights = torch.jit.load(path, map_location="cpu").state_dict()  # read, and never run
    try:
        return SileroNetwork({k.removeprefix("_model."): v for k, v in weights.items() if k.startswith("_model.")})
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path}: not the network of silero-vad 6 ({one_line(error)}); choose --vad energy") from None


def detect_speech_silero(
    wave: torch.Tensor | NDArray[np.float32], sample_rate: int, options: SileroOptions | None = None
) -> list[list[Interval]]:
    """When somebody speaks on each channel.

    Args:
        wave: samples (C, N), full scale at ±1.
        sample_rate: Hz; other rates than 16 kHz are resampled.
        options: thresholds.

    Returns:
        For each channel its stretches of speech, (start, end) in seconds, from decisions every 32 ms; their beginnings
        and ends to 10 ms.
    """
    import torch

    from speechdlm_ext.io.audio import resample

    options = options or SileroOptions()
    samples = torch.as_tensor(wave)
    duration = samples.shape[1] / sample_rate
    samples = resample(samples, sample_rate, SAMPLE_RATE)
    if not samples.shape[1]:
        return [[] for _ in samples]
    rule = SpeechRule(options.rise, options.fall, options.shortest_speech, options.shortest_silence)
    probabilities = load_network().probabilities(samples).double().numpy()
    levels = [measure_levels(channel, SAMPLE_RATE) for channel in samples.numpy()]
    return [
        _stretches(chances, levels[c], rule, options.edges(), duration, levels[:c] + levels[c + 1 :])
        for c, chances in enumerate(probabilities)
    ]


def _stretches(
    chances: NDArray[np.float64],
    channel: ChannelLevels,
    rule: SpeechRule,
    edges: EdgeOptions,
    duration: float,
    others: list[ChannelLevels],
) -> list[Interval]:
    """Stretches of one channel from its probabilities (T,), its levels, and those of the other channels."""
    rough = speech_stretches(chances, FRAME_SHIFT, rule)
    if not rough:
        return []
    frames = np.minimum((np.arange(len(channel.level)) * (LEVEL_SHIFT / FRAME_SHIFT)).astype(int), len(chances) - 1)
    fine = refine_edges(rough, channel, edges, chances[frames], others)
    if fine and rough[-1][1] >= duration - FRAME_SHIFT:
        # Speech that the recording cuts off, within a frame of its end or where the level says nothing.
        by_network = abs(fine[-1][1] - rough[-1][1] - edges.end_shift) < 1e-6
        if by_network or fine[-1][1] >= duration - 2 * LEVEL_SHIFT:
            fine[-1] = (fine[-1][0], duration)
    bridged = bridge_silences(fine, rule.shortest_silence)
    return [
        (round(start, 3), round(min(end, duration), 3))
        for start, end in bridged
        if min(end, duration) - start >= rule.shortest_speech - 1e-6
    ]
