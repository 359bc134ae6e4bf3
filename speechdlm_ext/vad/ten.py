"""Speech detection by ten-vad (github.com/TEN-framework/ten-vad), as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.vad.base import Detector, Speech, speech_intervals

SAMPLE_RATE = 16000  # Hz
HOP = 256  # samples of a decision


@dataclass(frozen=True)
class Ten(Detector):
    """ten-vad's decisions of 16 ms (extra; on Linux it needs libc++.so.1).

    The package itself neither drops short speech nor bridges short silences: ``min_speech``, ``min_silence`` and
    ``pad`` (seconds) are 0 by default.
    """

    name: ClassVar[str] = "ten"
    frame_shift: ClassVar[float] = HOP / SAMPLE_RATE

    threshold: float = 0.5
    min_speech: float = 0.0
    min_silence: float = 0.0
    pad: float = 0.0

    def detect(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """See :meth:`Detector.detect`; the last, incomplete 16 ms are not judged."""
        import torch

        from speechdlm_ext.io.audio import resample

        try:
            from ten_vad import TenVad
        except ImportError:
            raise InputError(
                "ten-vad is not installed: pip install 'speechdlm_ext[eval]', or pass --vad silero"
            ) from None
        audio = resample(torch.as_tensor(wave), sample_rate, SAMPLE_RATE).numpy()
        samples = np.rint(np.clip(audio, -1, 1) * 32767).astype(np.int16)
        speech = []
        for channel in samples:
            try:
                network = TenVad(HOP, self.threshold)
            except OSError as error:
                raise InputError(f"ten-vad cannot be loaded ({one_line(error)}): install libc++ (libc++1)") from None
            hops = channel[: len(channel) // HOP * HOP].reshape(-1, HOP)
            values = [network.process(hop)[0] for hop in hops]
            at = np.nextafter(self.threshold, 0)  # the package's own flag is: probability ≥ threshold
            speech.append(
                speech_intervals(values, self.frame_shift, at, at, self.min_speech, self.min_silence, self.pad)
            )
        return speech
