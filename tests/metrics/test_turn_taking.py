"""Turn-taking events: timelines worked by hand, brute force on a grid, and properties that must always hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.metrics.rttm import read_rttm, speech_by_speaker
from speechdlm_ext.metrics.summary import describe, pool_events, summarise
from speechdlm_ext.metrics.turn_taking import EVENT_NAMES, Event, Events, find_events


def spans(events: list[Event]) -> list[tuple[float, float]]:
    return [(round(e.start, 3), round(e.end, 3)) for e in events]


def test_pause_gap_and_silent_edges() -> None:
    # A speaks twice with a pause, B answers after a gap; nothing counts before 1.0 or after 8.0.
    events = find_events([[(1, 3), (3.5, 5)], [(5.4, 8)]], 10)
    assert spans(events.ipus) == [(1, 3), (3.5, 5), (5.4, 8)]
    assert spans(events.pauses) == [(3, 3.5)] and events.pauses[0].channels == (0,)
    assert spans(events.gaps) == [(5, 5.4)] and events.gaps[0].channels == (0, 1)
    assert spans(events.turns) == [(1, 5), (5.4, 8)]
    assert events.offsets == [pytest.approx(0.4)]
    assert not events.overlaps and not events.backchannels and not events.interruptions


def test_silence_of_200_ms_bounds_a_unit_and_a_shorter_one_does_not() -> None:
    events = find_events([[(0.3, 0.5), (0.7, 1.5), (1.69, 3)], []], 4)
    assert spans(events.ipus) == [(0.3, 0.5), (0.7, 3)]
    assert spans(events.pauses) == [(0.5, 0.7)]
    assert events.speech[0] == pytest.approx(0.2 + 0.8 + 1.31)  # speech as detected: bridging adds nothing to it


def test_overlap_between_turns_is_a_negative_offset() -> None:
    events = find_events([[(0, 4)], [(3.5, 7)]], 7)
    assert spans(events.overlaps) == spans(events.overlaps_between) == [(3.5, 4)]
    assert not events.overlaps_within
    assert events.offsets == [pytest.approx(-0.5)]
    assert spans(events.interruptions) == [(3.5, 4)] and events.interruptions[0].channels == (1,)


def test_backchannels_do_not_take_the_turn() -> None:
    # B's mhm inside A's speech (overlap within) and B's yeah in A's pause: one turn of A.
    events = find_events([[(0, 4), (5, 7)], [(2, 2.4), (4.3, 4.8)]], 8)
    assert spans(events.backchannels) == [(2, 2.4), (4.3, 4.8)]
    assert spans(events.overlaps_within) == [(2, 2.4)]
    assert spans(events.turns) == [(0, 7)] and events.offsets == []
    assert spans(events.gaps) == [(4, 4.3), (4.8, 5)] and not events.pauses  # joint silences next to another voice


def test_short_answer_that_changes_the_floor_is_a_turn() -> None:
    events = find_events([[(0, 2)], [(2.2, 2.7), (3.5, 6)]], 6)
    assert not events.backchannels
    assert spans(events.turns) == [(0, 2), (2.2, 6)]


def test_simultaneous_starts_and_ends() -> None:
    events = find_events([[(1, 3), (5, 6)], [(1, 2), (5, 6)]], 7)
    assert spans(events.overlaps) == [(1, 2), (5, 6)]
    assert events.overlaps_within == [] and events.overlaps_between == []  # nobody alone before, or after
    assert spans(events.pauses) == [(3, 5)] and not events.gaps  # channel 0 speaks on both sides


def test_three_channels() -> None:
    events = find_events([[(0, 3)], [(2, 5)], [(2.5, 6)]], 6)
    assert spans(events.overlaps) == [(2, 5)] and events.overlaps[0].channels == (0, 1, 2)
    assert spans(events.overlaps_between) == [(2, 5)]
    assert [round(o, 3) for o in events.offsets] == [-1.0, -2.5]


def test_edges_of_the_recording_empty_stretches_and_silence() -> None:
    events = find_events([[(-1, 0.5), (0.9, 0.9), (2.8, 9)], []], 3)
    assert spans(events.ipus) == [(0, 0.5), (2.8, 3)]
    assert events.speech == [pytest.approx(0.7), 0]
    silent = find_events([[], []], 60)
    assert all(getattr(silent, name) == [] for name in EVENT_NAMES)
    figures = summarise(silent)
    assert figures["ipu"] == {"n": 0, "per_minute": 0, "seconds_per_minute": 0, "mean": None, "median": None}
    assert figures["speech_share"] == [0, 0]
    assert summarise(Events(0.0, []))["gap"]["per_minute"] is None


def test_figures() -> None:
    assert describe([1.0, 2.0, 6.0], 2.0) == {
        "n": 3,
        "per_minute": 1.5,
        "seconds_per_minute": 4.5,
        "mean": 3.0,
        "median": 2.0,
    }
    first, second = find_events([[(0, 2)], [(3, 4)]], 30), find_events([[(0, 4)], []], 90)
    pooled = pool_events([first, second])
    assert pooled.duration == 120 and pooled.speech == [6, 1] and len(pooled.ipus) == 3
    assert summarise(pooled)["ipu"]["per_minute"] == 1.5


# Times on a grid of 10 ms, so that a brute-force count of grid cells is exact.
grid_stretches = st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 250)), max_size=12).map(
    lambda pairs: [(a / 100, (a + length) / 100) for a, length in pairs]
)
conversations = st.lists(grid_stretches, min_size=1, max_size=3)


def cells(stretches: list[tuple[float, float]], length: int) -> np.ndarray:
    grid = np.zeros(length, bool)
    for start, end in stretches:
        grid[max(0, round(start * 100)) : max(0, round(end * 100))] = True
    return grid


def runs(grid: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], grid.astype(int), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


@given(conversations)
def test_against_brute_force_on_a_grid(activity: list[list[tuple[float, float]]]) -> None:
    length = 1300
    events = find_events(activity, length / 100)
    grids = []
    for stretches, seconds in zip(activity, events.speech, strict=True):
        grid = cells(stretches, length)
        assert seconds == pytest.approx(grid.sum() / 100)  # so speech + silence = duration
        for a, b in runs(~grid):
            if a > 0 and b < length and b - a < 20:
                grid[a:b] = True
        grids.append(grid)
    count = np.sum(grids, axis=0)
    assert sum(e.duration for e in events.ipus) == pytest.approx(count.sum() / 100)
    assert spans(events.overlaps) == [(a / 100, b / 100) for a, b in runs(count > 1)]
    inner = [(a, b) for a, b in runs(count == 0) if a > 0 and b < length]
    speaking = np.stack(grids)
    pauses = [(a / 100, b / 100) for a, b in inner if (speaking[:, a - 1] & speaking[:, b]).any()]
    gaps = [(a / 100, b / 100) for a, b in inner if not (speaking[:, a - 1] & speaking[:, b]).any()]
    assert spans(events.pauses) == pauses and spans(events.gaps) == gaps
    for kind, same in (("overlaps_within", True), ("overlaps_between", False)):
        expected = []
        for a, b in runs(count > 1):
            before = np.flatnonzero(count[:a] == 1)
            after = np.flatnonzero(count[b:] == 1) + b
            if len(before) and len(after):
                who = speaking[:, before[-1]].argmax(), speaking[:, after[0]].argmax()
                if bool(who[0] == who[1]) is same:
                    expected.append((a / 100, b / 100))
        assert spans(getattr(events, kind)) == expected
    # Every unit is a backchannel or part of exactly one turn.
    turns = sum(
        1
        for e in events.ipus
        for t in events.turns
        if t.channels == e.channels and t.start <= e.start and e.end <= t.end
    )
    assert turns >= len(events.ipus) - len(events.backchannels)


@given(conversations)
def test_swapping_channels_swaps_nothing_else(activity: list[list[tuple[float, float]]]) -> None:
    events, swapped = find_events(activity, 13), find_events(activity[::-1], 13)
    assert events.speech == swapped.speech[::-1]
    for name in ("ipus", "pauses", "gaps", "overlaps", "overlaps_within", "overlaps_between"):
        assert sorted(spans(getattr(events, name))) == sorted(spans(getattr(swapped, name)))


@given(conversations)
def test_mirrored_time_keeps_silences_and_overlaps(activity: list[list[tuple[float, float]]]) -> None:
    mirrored = [[(13 - b, 13 - a) for a, b in stretches] for stretches in activity]
    events, back = find_events(activity, 13), find_events(mirrored, 13)
    for name in ("ipus", "pauses", "gaps", "overlaps", "overlaps_within"):
        there = sorted((round(13 - b, 3), round(13 - a, 3)) for a, b in spans(getattr(back, name)))
        assert sorted(spans(getattr(events, name))) == there


def test_a_real_meeting(shared: Path) -> None:
    """AMI, 3 to 4 people: totals against an independent count on a grid of 1 ms."""
    speech = speech_by_speaker(read_rttm(shared / "speech" / "ami.rttm"))
    assert len(speech) >= 4
    for people in speech.values():
        events = find_events(list(people.values()), 30.0)
        count = np.zeros(30000, int)
        for stretches in people.values():
            grid = np.zeros(30000, bool)
            for start, end in stretches:
                grid[round(start * 1000) : round(end * 1000)] = True
            for a, b in runs(~grid):
                if a > 0 and b < 30000 and b - a < 200:
                    grid[a:b] = True
            count += grid
        assert sum(e.duration for e in events.overlaps) == pytest.approx((count > 1).sum() / 1000, abs=0.05)
        assert sum(e.duration for e in events.ipus) == pytest.approx(count.sum() / 1000, abs=0.05)
