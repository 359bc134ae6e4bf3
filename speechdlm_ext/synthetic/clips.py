"""A clip: the sound of one utterance, cut close, and the stretches of it that are speech."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.intervals import bridge_silences

SAMPLE_RATE = 16000  # Hz, of all conversations made here
ACTIVE_LEVEL = -26.0  # dB re full scale, root mean square over the speech of a clip

Wave = NDArray[np.float32]
Segment = tuple[float, float]


@dataclass
class Clip:
    """One utterance: ``wave`` (N,) at 16 kHz, starting and ending with speech; ``speech`` in seconds from its start."""

    wave: Wave
    speech: list[Segment]
    text: str = ""
    kind: str = field(default="statement")

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.wave) / SAMPLE_RATE

    def cut(self, seconds: float, fade: float = 0.03) -> Clip:
        """The first ``seconds`` of the clip, faded out over the last ``fade`` seconds: a speaker who breaks off.

        Of a stretch of speech that would have begun within the fade, nothing is heard: it does not count.
        """
        length = max(0, min(len(self.wave), int(seconds * SAMPLE_RATE)))
        wave = self.wave[:length].copy()
        ramp = min(length, int(fade * SAMPLE_RATE))
        if ramp:
            wave[-ramp:] *= np.linspace(1.0, 0.0, ramp, dtype=np.float32)
        end = length / SAMPLE_RATE
        latest = max(end - fade, self.speech[0][0]) if self.speech else end
        return Clip(wave, [(a, min(b, end)) for a, b in self.speech if a <= latest and a < end], self.text, self.kind)


class SpeechSource(Protocol):
    """Where the voices come from."""

    @property
    def voices(self) -> list[str]:
        """Names of the voices, at least two."""

    def settings(self) -> dict[str, object]:
        """What the sound depends on, as plain JSON values: a change of it means that conversations are made anew."""

    def speak(self, voice: str, kind: str, rng: np.random.Generator) -> Clip:
        """One utterance of ``kind`` (``statement``, ``question``, ``answer``, ``backchannel`` or ``laughter``)."""


def clean_speech(wave: Wave, depth: float = 40.0, bridge: float = 0.2, shortest: float = 0.05) -> list[Segment]:
    """Speech in a clip with little noise: where its level is within ``depth`` dB of its own peak.

    The level is taken every 5 ms. Silences shorter than ``bridge`` seconds (stop closures) count as speech: 0.2 s is
    the silence that bounds an inter-pausal unit. What then stands alone and is shorter than ``shortest`` seconds is a
    click. Where the background is not ``depth`` dB below the peak, all of the clip is speech.

    Returns:
        Stretches (start, end) in seconds.
    """
    step = SAMPLE_RATE // 200
    frames = len(wave) // step
    if not frames:
        return []
    power = np.mean(wave[: frames * step].reshape(frames, step).astype(np.float64) ** 2, axis=1)
    active = power > power.max() * 10 ** (-depth / 10)
    if not power.max():
        return []
    edges = np.flatnonzero(np.diff(np.concatenate(([0], active.astype(np.int8), [0]))))
    stretches = [(a * step / SAMPLE_RATE, b * step / SAMPLE_RATE) for a, b in edges.reshape(-1, 2).tolist()]
    return [(a, b) for a, b in bridge_silences(stretches, bridge) if b - a >= shortest]


def make_clip(wave: Wave, speech: list[Segment], text: str, kind: str, level: float = ACTIVE_LEVEL) -> Clip:
    """Trim ``wave`` (N,) to its ``speech`` and bring the speech to ``level`` dB re full scale.

    Peaks above 0.9 of full scale are brought down with the whole clip, so that nothing clips.
    """
    if not speech:
        return Clip(np.zeros(0, np.float32), [], text, kind)
    first, last = (round(t * SAMPLE_RATE) for t in (speech[0][0], speech[-1][1]))
    wave = wave[first:last].astype(np.float32)
    inside = np.concatenate([wave[round(a * SAMPLE_RATE) - first : round(b * SAMPLE_RATE) - first] for a, b in speech])
    gain = 10 ** (level / 20) / max(float(np.sqrt(np.mean(inside.astype(np.float64) ** 2))), 1e-9)
    gain = min(gain, 0.9 / max(float(np.abs(wave).max()), 1e-9))
    start = first / SAMPLE_RATE
    return Clip(wave * np.float32(gain), [(a - start, b - start) for a, b in speech], text, kind)
