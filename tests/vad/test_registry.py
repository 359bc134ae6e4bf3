"""The list of detectors: every one by its name, with its options; what is wrong is named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.intervals import frames_to_intervals, intervals_to_frames
from speechdlm_ext.vad import DETECTORS, build_detector, detector_help
from speechdlm_ext.vad.base import speech_intervals
from speechdlm_ext.vad.field import Field
from speechdlm_ext.vad.silero import Silero
from speechdlm_ext.vad.units import Units


@pytest.mark.parametrize("name", list(DETECTORS))
def test_every_detector(name: str) -> None:
    detector = build_detector(name)
    assert detector.name == name and f"{name}: " in detector_help()
    assert pickle.loads(pickle.dumps(detector)) == detector  # as processes are given it
    with pytest.raises(NotImplementedError, match=name):
        if detector.reads == "audio":
            detector.read("a", {})
        else:
            detector.detect(np.zeros((1, 16000), np.float32), 16000)


def test_options() -> None:
    assert build_detector("silero:threshold=0.6,pad=0.2") == Silero(threshold=0.6, pad=0.2)
    assert build_detector("field:turns") == Field("turns") and build_detector("units:3 17") == Units((3, 17))
    for spec, message in (
        ("loud", "no such detector; expected one of silero, energy"),
        ("silero:volume=3", "no option 'volume'; its options are threshold, min_speech"),
        ("silero:pad=long", "pad is 'long', a number is expected"),
    ):
        with pytest.raises(InputError, match=message):
            build_detector(spec)


def test_hysteresis() -> None:
    values = [0, 4, 6, 4, 0, 4, 4, 0, 0, 0, 6, 0, 6]
    assert speech_intervals(values, 1.0, 5, 3) == [(1, 4), (10, 11), (12, 13)]  # 4 4 never reaches 5
    assert speech_intervals(values, 1.0, 5, 3, min_silence=2) == [(1, 4), (10, 13)]
    assert speech_intervals(values, 1.0, 5, 3, min_silence=2, min_speech=3.5) == []
    assert speech_intervals(values, 1.0, 5, 3, pad=2) == [(0, 6), (8, 11.5), (11.5, 13)]
    assert speech_intervals([], 1.0, 5, 3) == []


@pytest.mark.commands
@given(st.lists(st.booleans(), max_size=60), st.sampled_from([0.01, 0.016, 0.02, 1.0]))
def test_frames_and_intervals_are_inverse(frames: list[bool], shift: float) -> None:
    found = frames_to_intervals(frames, shift)
    assert intervals_to_frames(found, len(frames), shift).tolist() == frames
    assert all(start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in zip(found, found[1:], strict=False))
