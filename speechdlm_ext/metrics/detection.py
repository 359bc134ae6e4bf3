"""How well a speech detector agrees with annotation: precision, recall, detection error rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from speechdlm_ext.metrics.intervals import Interval, intervals_to_frames

FRAME_SHIFT = 0.001  # seconds: times are compared to the millisecond


class DetectionErrors(NamedTuple):
    """Seconds of one channel, or of several together.

    Attributes:
        speech: annotated as speech.
        missed: annotated as speech, not found.
        false_alarm: found, not annotated.
    """

    speech: float
    missed: float
    false_alarm: float


def detection_errors(
    reference: Sequence[Interval], found: Sequence[Interval], duration: float, collar: float = 0.0
) -> DetectionErrors:
    """Errors of one channel of ``duration`` seconds; ``collar`` seconds on both sides of each annotated bound are free.

    A collar of 0.25 is that of NIST's md-eval, and what pyannote.metrics calls 0.5.
    """
    count = round(duration / FRAME_SHIFT)
    speech, detected = (intervals_to_frames(part, count, FRAME_SHIFT) for part in (reference, found))
    bounds = [(time - collar, time + collar) for interval in reference for time in interval]
    judged = ~intervals_to_frames(bounds, count, FRAME_SHIFT) if collar > 0 else np.ones(count, bool)
    parts = (speech & judged, speech & ~detected & judged, detected & ~speech & judged)
    return DetectionErrors(*(float(frames.sum() * FRAME_SHIFT) for frames in parts))


def pool_errors(errors: Iterable[DetectionErrors]) -> dict[str, Any]:
    """Figures of all channels together.

    Returns:
        ``precision``, ``recall``, ``f1``, ``missed`` and ``false_alarm`` (shares of the annotated speech) and
        ``detection_error_rate``, their sum; None where there is nothing to divide by.
    """
    speech, missed, false_alarm = (float(total) for total in np.array([(0.0, 0.0, 0.0), *errors]).sum(axis=0))
    hits = speech - missed

    def share(above: float, below: float) -> float | None:
        return above / below if below > 0 else None

    return {
        "precision": share(hits, hits + false_alarm),
        "recall": share(hits, speech),
        "f1": share(2 * hits, 2 * hits + missed + false_alarm),
        "missed": share(missed, speech),
        "false_alarm": share(false_alarm, speech),
        "detection_error_rate": share(missed + false_alarm, speech),
    }
