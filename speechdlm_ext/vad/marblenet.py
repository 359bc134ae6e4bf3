"""Speech detection by MarbleNet (Jia et al. 2021): decisions of frames, or of windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import stamp
from speechdlm_ext.vad.base import Detector, Speech
from speechdlm_ext.vad.binarization import SMOOTHINGS, binarize, filter_intervals, smooth_overlaps

if TYPE_CHECKING:
    import torch

    from speechdlm_ext.modules.conv_speech_files import LoadedNetwork

_BATCH_SECONDS = 600.0  # of windows that are computed at once
_LONGEST = 60.0  # seconds of sound that a model of frames sees at once
_CONTEXT = 2.0  # seconds before and after that it sees, too


@dataclass(frozen=True)
class MarbleNet(Detector):
    """A model of frame labels, or of the label of a clip in windows: NeMo's file, a checkpoint, or a published name.

    Speech begins where the probability rises above ``onset`` and ends where it falls below ``offset``, ``pad_onset``
    seconds earlier and ``pad_offset`` seconds later; then short speech is dropped and short silence bridged (in the
    other order with ``speech_first=0``). ``window`` and ``shift`` (seconds) are of models of clips: each window is a
    clip, and with ``smoothing`` (mean or median) all windows that a frame lies in decide, ``overlap`` apart.
    """

    name: ClassVar[str] = "marblenet"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    frame_shift: ClassVar[float] = 0.02

    model: str = "vad_multilingual_frame_marblenet"
    onset: float = 0.5
    offset: float = 0.5
    min_speech: float = 0.0
    min_silence: float = 0.0
    pad_onset: float = 0.0
    pad_offset: float = 0.0
    speech_first: int = 1
    window: float = 0.63
    shift: float = 0.02
    smoothing: str = "none"
    overlap: float = 0.875

    def __post_init__(self) -> None:
        if self.smoothing not in ("none", *SMOOTHINGS) or not 0 <= self.overlap < 1:
            raise InputError(
                f"--vad marblenet: smoothing {self.smoothing}, overlap {self.overlap:g}; expected none, "
                f"{' or '.join(SMOOTHINGS)}, and a share from 0 up to 1"
            )

    def detect(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """See :meth:`Detector.detect`; other rates than the model's are resampled."""
        import torch

        from speechdlm_ext.io.audio import resample
        from speechdlm_ext.modules.conv_speech import FRAMES

        network = _load(self.model).network
        samples = resample(torch.as_tensor(wave).float(), sample_rate, network.sample_rate)
        speech = []
        for channel in samples:
            with torch.inference_mode():
                if network.target == FRAMES:
                    values, shift = frame_probabilities(network, channel), 1 / network.frame_rate
                else:
                    values, shift = self._window_probabilities(network, channel), self.shift
            found = binarize(values.numpy(), shift, self.onset, self.offset, self.pad_onset, self.pad_offset)
            found = filter_intervals(found, self.min_speech, self.min_silence, bool(self.speech_first))
            duration = wave.shape[1] / sample_rate
            speech.append([(start, min(end, duration)) for start, end in found if start < duration])
        return speech

    def _window_probabilities(self, network: torch.nn.Module, wave: torch.Tensor) -> torch.Tensor:
        """Probability of speech of windows around times ``shift`` apart (T,); the ends are padded with zeros."""
        import torch

        rate = int(network.sample_rate)  # type: ignore[arg-type]
        width, shift = round(self.window * rate), round(self.shift * rate)
        if not 0 < shift <= width:
            raise InputError(
                f"--vad marblenet: window {self.window:g} s, shift {self.shift:g} s; expected 0 < shift ≤ window"
            )
        padded = torch.nn.functional.pad(wave, (width // 2, width))
        half = round(width / shift / 2) if self.smoothing != "none" else 0
        windows = padded.unfold(0, width, shift)[: max(1, len(wave) // shift) + half]
        found = []
        for part in windows.split(max(1, round(_BATCH_SECONDS / self.window))):
            logits, _ = network(part.contiguous(), torch.full((len(part),), width))
            found.append(logits.softmax(-1)[:, 1])
        values = torch.cat(found)
        if self.smoothing == "none":
            return values
        smooth = smooth_overlaps(values.numpy(), int(width / shift + 1), self.overlap, self.smoothing)
        return torch.from_numpy(smooth[half:])


def frame_probabilities(network: torch.nn.Module, wave: torch.Tensor) -> torch.Tensor:
    """Probability of speech of each frame (T,) of sound (N,), a minute at a time with context to both sides."""
    import torch

    rate = int(network.sample_rate)  # type: ignore[arg-type]
    hop = round(rate / float(network.frame_rate))  # type: ignore[arg-type]
    size, context, found = int(_LONGEST * rate) // hop * hop, int(_CONTEXT * rate) // hop * hop, []
    for first in range(0, max(1, len(wave)), size):
        begin = max(0, first - context)
        part = wave[begin : first + size + context]
        logits, frames = network(part[None], torch.tensor([len(part)]))
        skip = (first - begin) // hop
        found.append(logits[0, skip : min(skip + size // hop, int(frames[0]))].softmax(-1)[:, 1])
    return torch.cat(found)


def _load(model: str) -> LoadedNetwork:
    return _cached(model, tuple(stamp(model)))


@lru_cache(maxsize=2)
def _cached(model: str, state: object) -> LoadedNetwork:
    from speechdlm_ext.modules.conv_speech import FRAMES, LABEL
    from speechdlm_ext.modules.conv_speech_files import load_network

    loaded = load_network(model).expect(LABEL, FRAMES)
    if len(loaded.vocabulary["symbols"]) != 2:
        raise InputError(f"{model}: {len(loaded.vocabulary['symbols'])} labels; a detector has two, speech the second")
    return loaded
