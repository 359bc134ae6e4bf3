"""Speech detection by ten-vad (github.com/TEN-framework/ten-vad; Apache-2.0 with conditions against competing use)."""

from __future__ import annotations

from collections import deque
from ctypes import addressof, c_int32, c_size_t, c_void_p
from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.errors import InputError, one_line, optional_import
from speechdlm_ext.io.audio import resample_blocks
from speechdlm_ext.vad.base import Detector, Speech, speech_intervals

SAMPLE_RATE = 16000  # Hz
HOP = 256  # samples of a decision, as published; 160 is the other one


@dataclass(frozen=True)
class Ten(Detector):
    """ten-vad's decisions of 16 ms, or 10 ms with hop=160 (extra; on Linux it needs libc++.so.1).

    The package itself neither drops short speech nor bridges short silences: ``min_speech``, ``min_silence`` and
    ``pad`` (seconds) are 0 by default.
    """

    name: ClassVar[str] = "ten"
    frame_shift: ClassVar[float] = HOP / SAMPLE_RATE

    threshold: float = 0.5
    min_speech: float = 0.0
    min_silence: float = 0.0
    pad: float = 0.0
    hop: int = HOP

    def __post_init__(self) -> None:
        if self.hop not in (160, 256):
            raise InputError(f"--vad ten:hop={self.hop}: 160 or 256 samples expected")
        object.__setattr__(self, "frame_shift", self.hop / SAMPLE_RATE)

    def detect(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """See :meth:`Detector.detect`; the last, incomplete frame is not judged."""
        if sample_rate != SAMPLE_RATE:
            wave = np.concatenate(list(resample_blocks([wave], sample_rate, SAMPLE_RATE)), axis=1)
        scaled = wave * np.float32(32768)  # so that the samples of a file of 16 bits are what they were
        np.rint(scaled, out=scaled)
        samples = np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)
        at = np.nextafter(self.threshold, 0)  # the package's own flag is: probability ≥ threshold
        return [
            speech_intervals(
                self.probabilities(channel),
                self.frame_shift or 0.0,
                at,
                at,
                self.min_speech,
                self.min_silence,
                self.pad,
            )
            for channel in samples
        ]

    def probabilities(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Probability of speech in each whole frame of a channel (N,) at 16 kHz.

        The package's C function is called as the package itself does, without checking each frame anew.
        """
        with optional_import("ten-vad is not installed", "eval", ", or pass --vad silero"):
            from ten_vad import TenVad
        try:
            network = TenVad(self.hop, self.threshold)  # a new one each time: it has a state
        except OSError as error:
            raise InputError(f"ten-vad cannot be loaded ({one_line(error)}): install libc++ (libc++1)") from None
        samples = np.ascontiguousarray(samples)
        values, flag = np.empty(len(samples) // self.hop, np.float32), c_int32()
        process = network.vad_library["ten_vad_process"]  # the function anew, with types that cost less to check
        process.argtypes = [c_void_p, c_void_p, c_size_t, c_void_p, c_void_p]
        first, place = samples.ctypes.data, values.ctypes.data
        frames = range(first, first + 2 * self.hop * len(values), 2 * self.hop)
        places = range(place, place + 4 * len(values), 4)
        handle, size, unused = network.vad_handler, c_size_t(self.hop), repeat(addressof(flag))
        deque(map(process, repeat(handle), frames, repeat(size), places, unused), maxlen=0)  # a loop without bytecode
        return values
