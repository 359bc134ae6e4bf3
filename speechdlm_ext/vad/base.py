"""The interface of speech detectors, and how their options are read from a command line."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.intervals import Interval, bridge_silences, frames_to_intervals, widen_intervals

Speech = list[list[Interval]]  # for each channel its speech, (start, end) in seconds


class Annotation(NamedTuple):
    """Speech that is known without the audio.

    Attributes:
        speech: of each channel or speaker.
        speakers: their labels; empty where there are none.
        by_channel: whether ``speech`` is in the order of the audio's channels.
    """

    speech: Speech
    speakers: Sequence[str] = ()
    by_channel: bool = True


@dataclass(frozen=True)
class Detector(ABC):
    """A speech detector: a frozen dataclass whose fields are its options.

    A detector of audio implements :meth:`detect`; one of units or of annotation implements :meth:`read`. To add one,
    write it in a file of its own and name it in ``speechdlm_ext/vad/__init__.py``.

    Attributes:
        name: by which ``--vad`` selects it.
        reads: ``audio``, ``units`` or ``annotation``.
        frame_shift: seconds between two decisions; None if it has no frames.
        packages: large ones that it imports, which worker processes are to share.
    """

    name: ClassVar[str]
    reads: ClassVar[str] = "audio"
    frame_shift: ClassVar[float | None] = None
    packages: ClassVar[tuple[str, ...]] = ()

    def detect(self, wave: NDArray[np.float32], sample_rate: int) -> Speech:
        """Speech of each channel of ``wave`` (C, N), full scale ±1, at ``sample_rate`` Hz."""
        raise NotImplementedError(f"{self.name} does not read audio")

    def read(
        self, name: str, row: Mapping[str, Any], units: Sequence[ArrayLike] = (), frame_rate: float = 0.0
    ) -> Annotation | None:
        """Speech of a recording by its name, its manifest row, or its units (T,) of each channel at ``frame_rate`` Hz.

        Returns:
            None if nothing is known about the recording.
        """
        raise NotImplementedError(f"{self.name} reads audio")


D = TypeVar("D", bound=Detector)


def with_options(kind: type[D], text: str) -> D:
    """A detector with the options of ``KEY=VALUE,KEY=VALUE``; a value without a key is its first option's."""
    names = [field.name for field in fields(kind)]
    defaults, given = kind(), {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        key, value = (key, value) if equals else (names[0] if names else "", key)
        if key not in names:
            has = f"its options are {', '.join(names)}" if names else "it has no options"
            raise InputError(f"--vad {kind.name}:{text}: no option {key!r}; {has}")
        default = getattr(defaults, key)
        try:
            if isinstance(default, tuple):
                given[key] = tuple(int(part) if part.isdigit() else part for part in value.split())
            else:
                given[key] = type(default)(value)
        except ValueError:
            raise InputError(f"--vad {kind.name}:{text}: {key} is {value!r}, a number is expected") from None
    return kind(**given)


def speech_intervals(
    values: ArrayLike,
    frame_shift: float,
    rise: float,
    fall: float,
    min_speech: float = 0.0,
    min_silence: float = 0.0,
    pad: float = 0.0,
) -> list[Interval]:
    """Runs of frames above ``fall`` that reach above ``rise`` (hysteresis), as intervals.

    Silences shorter than ``min_silence`` are bridged, then speech shorter than ``min_speech`` is dropped, then both
    ends are moved outwards by ``pad``, at most to the middle of a silence.

    Args:
        values: one for each frame, (T,).
        frame_shift: seconds.
        rise, fall: in the unit of ``values``.
        min_speech, min_silence, pad: seconds.

    Returns:
        (start, end) in seconds, in order.
    """
    array = np.asarray(values, np.float64)
    reached = np.concatenate(([0], np.cumsum(array > rise)))
    runs = frames_to_intervals(array > fall, 1)
    kept = [(a * frame_shift, b * frame_shift) for a, b in runs if reached[round(b)] > reached[round(a)]]
    bridged = bridge_silences(kept, min_silence)
    long = [(round(a, 4), round(b, 4)) for a, b in bridged if b - a >= min_speech - 1e-6]
    return widen_intervals(long, pad, pad, len(array) * frame_shift)
