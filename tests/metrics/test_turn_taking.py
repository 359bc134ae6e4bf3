"""Turn-taking events: timelines worked by hand, brute force on a grid, and properties that must always hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from speechdlm_ext.io.rttm import read_rttm, speech_by_speaker
from speechdlm_ext.metrics.events import KINDS, EventList, Events, one_conversation, select_conversations
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions, find_events, find_events_of_many
from tests.helpers.timelines import SECONDS, Plain, Span, bridged, cells, conversations, runs, seconds, spans


def test_pause_gap_and_silent_edges() -> None:
    # A speaks twice with a pause, B answers after a gap; nothing counts before 1.0 or after 8.0.
    events = find_events([[(1, 3), (3.5, 5)], [(5.4, 8)]], 10)
    assert spans(events.ipus) == [(1, 3), (3.5, 5), (5.4, 8)]
    assert spans(events.pauses) == [(3, 3.5)] and events.pauses[0].channels == (0,)
    assert spans(events.gaps) == [(5, 5.4)] and events.gaps[0].channels == (0, 1)
    assert spans(events.turns) == [(1, 5), (5.4, 8)]
    assert offsets(events) == [0.4]
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
    assert offsets(events) == [-0.5]
    assert spans(events.interruptions) == [(3.5, 4)] and events.interruptions[0].channels == (1,)


def test_backchannels_do_not_take_the_turn() -> None:
    # B's mhm inside A's speech (overlap within) and B's yeah in A's pause: one turn of A.
    events = find_events([[(0, 4), (5, 7)], [(2, 2.4), (4.3, 4.8)]], 8)
    assert spans(events.backchannels) == [(2, 2.4), (4.3, 4.8)]
    assert spans(events.overlaps_within) == [(2, 2.4)]
    assert spans(events.turns) == [(0, 7)] and not events.floor_transfers
    assert spans(events.gaps) == [(4, 4.3), (4.8, 5)] and not events.pauses  # joint silences next to another voice


def test_short_answer_that_changes_the_floor_is_a_turn() -> None:
    events = find_events([[(0, 2)], [(2.2, 2.7), (3.5, 6)]], 6)
    assert not events.backchannels
    assert spans(events.turns) == [(0, 2), (2.2, 6)]


def test_simultaneous_starts_and_ends() -> None:
    events = find_events([[(1, 3), (5, 6)], [(1, 2), (5, 6)]], 7)
    assert spans(events.overlaps) == [(1, 2), (5, 6)]
    assert not events.overlaps_within and not events.overlaps_between  # nobody alone before, or after
    assert spans(events.pauses) == [(3, 5)] and not events.gaps  # channel 0 speaks on both sides


def test_three_channels() -> None:
    events = find_events([[(0, 3)], [(2, 5)], [(2.5, 6)]], 6)
    assert spans(events.overlaps) == [(2, 5)] and events.overlaps[0].channels == (0, 1, 2)
    assert spans(events.overlaps_between) == [(2, 5)]
    assert offsets(events) == [-1.0, -2.5]


def test_edges_of_the_recording_empty_stretches_and_silence() -> None:
    events = find_events([[(-1, 0.5), (0.9, 0.9), (2.8, 9)], []], 3)
    assert spans(events.ipus) == [(0, 0.5), (2.8, 3)]
    assert events.speech == [pytest.approx(0.7), 0]
    silent = find_events([[], []], 60)
    assert not any(getattr(silent, name) for name in KINDS)
    assert silent.duration == 60 and silent.speech == [0, 0]


def test_several_channels_with_every_kind_of_event() -> None:
    # A holds the floor to 10, with C's mhm in A's pause and B's talk that does not win it; C takes over, B breaks in.
    a = [(1, 4), (4.8, 10)]
    b = [(6, 7.5), (15.5, 18)]
    c = [(4.2, 4.6), (10.4, 16)]
    events = find_events([a, b, c], 20)
    assert spans(events.ipus) == [(1, 4), (4.2, 4.6), (4.8, 10), (6, 7.5), (10.4, 16), (15.5, 18)]
    assert spans(events.backchannels) == [(4.2, 4.6)] and events.backchannels[0].channels == (2,)
    assert spans(events.turns) == [(1, 10), (6, 7.5), (10.4, 16), (15.5, 18)]
    assert spans(events.gaps) == [(4, 4.2), (4.6, 4.8), (10, 10.4)] and not events.pauses
    assert spans(events.overlaps_within) == [(6, 7.5)] and spans(events.overlaps_between) == [(15.5, 16)]
    assert offsets(events) == [0.4, -0.5]
    assert [e.channels for e in events.floor_transfers] == [(0, 2), (1, 2)]
    assert spans(events.interruptions) == [(15.5, 16)] and events.interruptions[0].channels == (1,)
    assert events.speech == [8.2, 4.0, 6.0]


def test_turns_end_where_another_speaks_in_the_pause() -> None:
    # B's 1.5 s are too long for a backchannel, and are spoken while A is silent: A's talk is two turns.
    events = find_events([[(0, 3), (5, 8)], [(3.2, 4.7)]], 8)
    assert spans(events.turns) == [(0, 3), (3.2, 4.7), (5, 8)] and offsets(events) == [0.2, 0.3]
    # Within the second unit, it leaves A's turn whole, pause included, and moves no floor.
    events = find_events([[(0, 3), (5, 8)], [(5.5, 7)]], 8)
    assert spans(events.turns) == [(0, 8), (5.5, 7)] and not events.floor_transfers and not events.backchannels
    assert spans(events.pauses) == [(3, 5)]


def test_turns_that_begin_or_end_together() -> None:
    both = find_events([[(1, 3)], [(1, 3), (4, 6)]], 7)
    assert spans(both.turns) == [(1, 3), (1, 6)] and not both.floor_transfers  # A's lies inside B's
    same = find_events([[(1, 3)], [(1, 3)], [(3.5, 6)]], 7)
    assert spans(same.turns) == [(1, 3), (1, 3), (3.5, 6)] and offsets(same) == [0.5]
    touching = find_events([[(1, 3)], [(3, 5)]], 6)
    assert offsets(touching) == [0.0] and not touching.gaps and not touching.overlaps and not touching.interruptions


def test_thresholds_are_options() -> None:
    activity = [[(0, 2), (2.3, 5)], [(3, 3.6), (4.7, 8)]]
    assert spans(find_events(activity, 8, TurnTakingOptions(ipu_silence=0.31)).ipus)[0] == (0, 5)
    assert len(find_events(activity, 8).backchannels) == 1
    assert not find_events(activity, 8, TurnTakingOptions(max_backchannel=0.5)).backchannels
    assert find_events(activity, 8).interruptions
    assert not find_events(activity, 8, TurnTakingOptions(interruption_overlap=0.31)).interruptions


def offsets(events: Events) -> list[float]:
    return events.floor_transfers.durations.tolist()


@settings(deadline=None)
@given(conversations)
def test_against_brute_force_on_a_grid(activity: list[list[tuple[float, float]]]) -> None:
    length = 1300
    events = find_events(activity, length / 100)
    grids = []
    for stretches, speech in zip(activity, events.speech, strict=True):
        grid = cells(stretches, length)
        assert speech == grid.sum() / 100  # so speech + silence = duration
        grids.append(bridged(stretches, length))
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
    assert float(sum(e.duration for e in events.pauses) + sum(e.duration for e in events.gaps)) == pytest.approx(
        sum(b - a for a, b in inner) / 100
    )


@settings(deadline=None)
@given(conversations)
def test_turns_against_comparing_all_with_all(activity: list[list[Span]]) -> None:
    events, plain = find_events(activity, SECONDS), Plain(activity, round(100 * SECONDS))
    assert sorted(spans(events.backchannels)) == seconds(plain.backchannels)
    assert sorted(spans(events.turns)) == seconds(plain.turns)
    assert sorted(spans(events.floor_transfers)) == seconds(plain.transfers)
    broken = [(b, a) for a, b in plain.transfers if b - a <= -20]
    assert sorted(spans(events.interruptions)) == seconds(broken)


@settings(deadline=None)
@given(conversations)
def test_swapping_channels_swaps_nothing_else(activity: list[list[Span]]) -> None:
    events, swapped = find_events(activity, SECONDS), find_events(activity[::-1], SECONDS)
    assert events.speech == swapped.speech[::-1]
    for name in KINDS:
        assert sorted(spans(getattr(events, name))) == sorted(spans(getattr(swapped, name))), name
        if name not in ("floor_transfers", "interruptions"):  # of turns that are the same span, either may be named
            who = sorted((e.start, e.end, e.channels[::-1]) for e in getattr(events, name))
            other = [(e.start, e.end, tuple(len(activity) - 1 - c for c in e.channels)) for e in getattr(swapped, name)]
            assert [(a, b, set(c)) for a, b, c in who] == [(a, b, set(c)) for a, b, c in sorted(other)], name


@settings(deadline=None)
@given(conversations)
def test_mirrored_time_mirrors_the_events(activity: list[list[Span]]) -> None:
    mirrored = [[(SECONDS - b, SECONDS - a) for a, b in stretches] for stretches in activity]
    events, back = find_events(activity, SECONDS), find_events(mirrored, SECONDS)
    for name in KINDS:
        there = sorted((round(SECONDS - b, 3), round(SECONDS - a, 3)) for a, b in spans(getattr(back, name)))
        assert sorted(spans(getattr(events, name))) == there, name


def columns(events: Events) -> dict[str, list[tuple[int, Span]]]:
    def rows(kind: EventList) -> list[tuple[int, Span]]:
        return list(zip(kind.conversation.tolist(), spans(kind), strict=True))

    return {name: rows(getattr(events, name)) for name in KINDS}


@pytest.mark.commands
@settings(deadline=None)
@given(conversations, conversations, conversations)
def test_many_at_once_are_each_alone(
    first: list[list[Span]], second: list[list[Span]], third: list[list[Span]]
) -> None:
    talks = [(first, SECONDS), (second, 5.0), ([[], []], 0.0), (third, SECONDS)]
    together = find_events_of_many(talks)
    for number, talk in enumerate(talks):
        alone = find_events(*talk)
        assert columns(one_conversation(together, number)) == columns(alone)
        speech = together.channel_speech[number]
        assert speech[: len(talk[0])].tolist() == alone.speech and not speech[len(talk[0]) :].any()
    assert together.durations.tolist() == [SECONDS, 5.0, 0.0, SECONDS]
    assert together.channel_counts.tolist() == [len(a) for a, _ in talks]
    chosen = select_conversations(together, [3, 1])
    assert columns(chosen) == columns(find_events_of_many([talks[3], talks[1]]))


def test_events_are_a_sequence() -> None:
    events = find_events([[(1, 2), (3, 4)], []], 5).ipus
    assert events[1] == events[-1] == events[1:][0] and events[1].duration == 1 and len(events[:1]) == 1
    assert find_events_of_many([]).duration == find_events_of_many([]).conversations == 0
    assert find_events([], 10).duration == 10


def test_a_real_meeting(data: Path) -> None:
    """AMI, 3 to 4 people: totals against an independent count on a grid of 1 ms."""
    speech = speech_by_speaker(read_rttm(data / "speech" / "ami.rttm"))
    assert len(speech) == 2
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
        assert len(events.turns) - 1 >= len(events.floor_transfers) > 0 or len(events.turns) < 2
