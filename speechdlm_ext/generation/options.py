"""What a user may ask of decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.filters import FILTERS, OFF

_FilterOptions: Any = make_dataclass(
    "_FilterOptions", [(own.option, own.kind, field(default=own.kind(OFF))) for own in FILTERS], frozen=True
)


@dataclass(frozen=True)
class DecodingOptions(_FilterOptions):
    """Options of decoding, with the published names and defaults; those of :data:`.FILTERS` as well, -1 for none.

    Attributes:
        beam: hypotheses for each prompt. In sampling they are independent samples, and the most probable comes first.
        sampling: sample units at random instead of searching for the most probable.
        temperature: divides the logits; one number, or one for each channel.
        duration_temperature: divides predicted durations: above 1 the speech becomes faster.
        max_len_a, max_len_b: total length in frames, prompt included: a·(prompt + 1) + b.
        min_len: least length, prompt included. Dialogues never end before their greatest length.
        stop_at_end: let ``</s>`` end a sequence, from ``min_len`` on; for models of one channel.
        max_frames: end a sequence when its units last so many frames, prompt included: as long as the model says that
            they last (what the last unit is too long is cut from its duration), or one frame each.
        len_penalty: scores are divided by (length + 1) to this power.
        normalize_scores: whether they are.
        slide: continue beyond the model's window by encoding its last half anew; else that is an error.
        window: the greatest number of frames that a frame is predicted from, where that is fewer than the model's own
            window: memory and time per frame stay constant however long the sequence. With rotary positions it is
            exact; the model's window slides. An LSTM, whose state has one size, has no window.
        compile: compile the decoding step (``torch.compile``), on a GPU as a CUDA graph. Worth its minute where much is
            sampled.

    Raises:
        InputError: a value out of range.
    """

    beam: int = 1
    sampling: bool = False
    temperature: float | Sequence[float] = 1.0
    duration_temperature: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1
    stop_at_end: bool = False
    max_frames: int | None = None
    len_penalty: float = 1.0
    normalize_scores: bool = True
    slide: bool = True
    window: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise InputError(f"--beam {self.beam}: 1 or more is expected")
        temperatures = self.temperature if isinstance(self.temperature, Sequence) else [self.temperature]
        for value in temperatures:
            _check_positive("--temperature", value)
        _check_positive("--duration-temperature", self.duration_temperature)
        for own in FILTERS:
            value = getattr(self, own.option)
            if value == OFF:
                continue
            if not own.valid(value):
                raise InputError(f"{own.flag} {value}: {own.expected} is expected")
            if not self.sampling:
                raise InputError(f"{own.flag} needs --sampling")
        if not (math.isfinite(self.max_len_a) and self.max_len_a >= 0):
            raise InputError(f"--max-len-a {self.max_len_a}: 0 or more is expected")
        if self.window is not None and self.window < 2:
            raise InputError(f"a window of {self.window} units was asked for, 2 is the least")
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError(f"a length of {self.max_frames} frames was asked for, 1 is the least")

    def limit(self, prompt: int) -> int:
        """Total length in frames for a prompt of ``prompt`` frames."""
        frames = int(self.max_len_a * (prompt + 1) + self.max_len_b)
        if self.max_frames is not None:
            frames = min(frames, self.max_frames)
        if frames < max(self.min_len, 1):
            raise InputError(
                f"a length of {frames} frames was asked for, {max(self.min_len, 1)} is the least (--min-len)"
            )
        if prompt > frames:
            raise InputError(
                f"the prompt has {prompt} frames, --max-len-a {self.max_len_a} --max-len-b {self.max_len_b} allow "
                f"{frames} in all, prompt included: raise --max-len-b"
                + ("" if self.max_frames is None else " or --max-seconds")
            )
        return frames

    def temperatures(self, channels: Sequence[str]) -> list[float]:
        """The temperature of each channel."""
        if not isinstance(self.temperature, Sequence):
            return [float(self.temperature)] * len(channels)
        if len(self.temperature) != len(channels):
            raise InputError(
                f"--temperature: {len(self.temperature)} numbers for {len(channels)} channels ({','.join(channels)})"
            )
        return [float(value) for value in self.temperature]


def frames_of(seconds: float, frame_rate: float | None) -> int:
    """Seconds as frames; raises :class:`InputError` where it is not known how long a unit lasts."""
    _check_positive("--max-seconds", seconds)
    if frame_rate is None:
        raise InputError(
            f"--max-seconds {seconds:g}: the length of units is not known: give the --frame-rate of units that are not "
            "deduplicated, or train with --durations"
        )
    return max(round(seconds * frame_rate), 1)


def _check_positive(name: str, value: Any) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise InputError(f"{name} {value}: a number above 0 is expected")
