"""AMELA's columns, against flags frame by frame; splits and merging by their rules."""

from __future__ import annotations

import csv
import io
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.metrics.intervals import frames_to_intervals
from speechdlm_ext.vad.statistics import COLUMNS, bridge_by_speech, measure_speech, write_statistics

HOP = 0.016


@settings(deadline=None, max_examples=60)
@given(flags=st.lists(st.booleans(), max_size=200), rest=st.floats(0, 0.0159))
def test_runs_of_flags(flags: list[bool], rest: float) -> None:
    """Longest, shortest and mean run of equal flags, times the hop; the share of flags: as AMELA computes them."""
    found = measure_speech(frames_to_intervals(np.array(flags, bool), HOP), len(flags) * HOP + rest, HOP, True)
    runs = [(flag, sum(1 for _ in run) * HOP) for flag, run in groupby(flags)]
    for flag, got in ((True, found.spoken), (False, found.silent)):
        lengths = [length for own, length in runs if own == flag] or [0.0]
        assert got == pytest.approx((max(lengths), min(lengths), sum(lengths) / len(lengths)), abs=1e-6)
    assert found.ratio == pytest.approx(np.mean(flags) if flags else 0, abs=1e-6)


def test_splits() -> None:
    """In the middle of a silence of 0.3 s or more, at most 10 s behind every 30 s; none in short recordings."""
    speech = [(0.0, 31.0), (31.2, 35.2), (35.52, 58.0), (62.0, 75.0), (75.4, 99.2)]
    assert measure_speech(speech, 99.2, HOP, True).splits == [int(35.36 / HOP), int(60 / HOP)]  # none from 90 to 99.2
    assert measure_speech([(0.0, 10.0)], 29.9, HOP, True).splits == []


def test_bridging_depends_on_the_speech_before() -> None:
    assert bridge_by_speech([(0, 1), (1.19, 2)]) == [(0, 2)]  # below 0.3 - 0.1
    assert bridge_by_speech([(0, 1), (1.21, 2)]) == [(0, 1), (1.21, 2)]
    assert bridge_by_speech([(0, 9), (9.09, 10), (10.11, 11)]) == [(0, 10), (10.11, 11)]  # at least 0.1


def test_table() -> None:
    rows = [
        {"audio_filepath": "/a,b.wav", "duration": 1.0, "vad": "ten", "frame_shift": HOP, "speech": [[[0.16, 0.48]]]},
        {"audio_filepath": "/c.wav", "error": "c.wav is empty"},
    ]
    for several in (False, True):
        file = io.StringIO()
        write_statistics(file, rows, several)
        read = list(csv.DictReader(io.StringIO(file.getvalue())))
        assert tuple(read[0])[: len(COLUMNS)] == COLUMNS and ("channel" in read[0]) == several
        assert read[0]["audio_filepath"] == "/a,b.wav" and float(read[0]["max-spoken"]) == 0.32
        assert float(read[0]["spch-ratio"]) == pytest.approx(0.32 / 0.992, abs=1e-6) and read[0]["splits"] == "[]"
        assert read[1]["error"] == "c.wav is empty" and read[1]["duration"] == ""
