"""Errors of detection: by hand, and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.metrics.detection import DetectionErrors, detection_errors, pool_errors
from speechdlm_ext.metrics.intervals import join_intervals

REFERENCE = [(1.0, 3.0), (5.0, 6.0)]
FOUND = [(0.5, 2.5), (5.0, 6.3), (8.0, 8.4)]


def approx(*seconds: float) -> object:
    return pytest.approx(DetectionErrors(*seconds), abs=1e-6)


def test_by_hand() -> None:
    assert detection_errors(REFERENCE, FOUND, 10) == approx(3.0, 0.5, 0.5 + 0.3 + 0.4)
    # 0.25 s on both sides of 1, 3, 5 and 6 are free.
    assert detection_errors(REFERENCE, FOUND, 10, 0.25) == approx(1.5 + 0.5, 0.25, 0.25 + 0.05 + 0.4)
    figures = pool_errors([detection_errors(REFERENCE, FOUND, 10)])
    assert figures == {
        "precision": pytest.approx(2.5 / 3.7),
        "recall": pytest.approx(2.5 / 3),
        "f1": pytest.approx(2 * 2.5 / (3 + 3.7)),
        "missed": pytest.approx(0.5 / 3),
        "false_alarm": pytest.approx(1.2 / 3),
        "detection_error_rate": pytest.approx(1.7 / 3),
    }
    assert set(pool_errors([]).values()) == {None}


intervals = st.lists(
    st.tuples(st.integers(0, 90), st.integers(1, 30)).map(lambda p: (p[0] / 10, (p[0] + p[1]) / 10)), max_size=6
).map(join_intervals)


@given(intervals, intervals, st.sampled_from([0.0, 0.25]))
def test_properties(one: list, other: list, collar: float) -> None:
    errors = detection_errors(one, other, 12, collar)
    assert 0 <= errors.missed <= errors.speech <= 12 and errors.false_alarm >= 0
    assert detection_errors(one, one, 12, collar)[1:] == (0, 0)
    exact, swapped = detection_errors(one, other, 12), detection_errors(other, one, 12)
    assert exact.missed == pytest.approx(swapped.false_alarm) and exact.false_alarm == pytest.approx(swapped.missed)
    assert errors.missed <= exact.missed + 1e-9 and errors.false_alarm <= exact.false_alarm + 1e-9
