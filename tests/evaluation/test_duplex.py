"""Figures of duplex models, on conversations written by hand."""

from __future__ import annotations

import pytest

from speechdlm_ext.data.text_channel import Turn
from speechdlm_ext.evaluation.duplex import Conversation, channel_turns, figures, timing
from speechdlm_ext.modules.duplex_frames import ChannelIds

IDS = ChannelIds(text_bos=1, text_eos=2, text_pad=0, codes=10)


def _talk(agent, user=((0.0, 1.0), (4.0, 0.5))):
    reference = [Turn(1.3, 2.0, "yes of course", "agent"), Turn(4.8, 1.0, "not today", "agent")]
    return Conversation("a", 8.0, [Turn(start, length, "?", "user") for start, length in user], reference, agent)


def test_turns_of_a_text_channel():
    tokens = [0, 1, 7, 8, 0, 2, 0, 1, 9, 1, 5]
    turns = channel_turns(tokens, IDS, lambda ids: "".join(map(str, [i for i in ids if i])), 0.5, first=1)
    # The token of step t is of frame t + 1; a turn ends at its EOS, at the next BOS, or with the recording.
    assert [(turn.start, turn.end, turn.text) for turn in turns] == [
        (1.0, 3.0, "78"), (4.0, 5.0, "9"), (5.0, 6.0, "5"),
    ]  # fmt: skip


def test_answers_in_time_with_their_latencies():
    agent = [Turn(1.2, 1.0, "yes of course", "agent"), Turn(4.9, 1.0, "not at all", "agent")]
    found = timing([_talk(agent)])
    assert found.answers == 2 and found.false_starts == 0 and found.same_text == 1
    assert found.in_time == pytest.approx([0.2, 0.4])


def test_late_answers_and_needless_turns():
    found = timing([_talk([Turn(2.5, 0.5, "yes of course", "agent"), Turn(6.9, 0.5, "oh", "agent")])])
    assert found.answers == 2 and not found.in_time and found.false_starts == 2


def test_an_early_answer_counts_with_its_negative_latency():
    assert timing([_talk([Turn(0.7, 2.0, "yes", "agent")])]).in_time == pytest.approx([-0.3])


def test_interruptions_and_how_soon_the_agent_ends():
    soon = timing([_talk([Turn(1.3, 3.1, "yes of course", "agent")])])
    assert soon.interruptions == 1 and soon.yields == pytest.approx([0.4])
    never = timing([_talk([Turn(1.3, 6.0, "yes of course", "agent")])])
    assert never.interruptions == 1 and never.yields == []
    assert timing([_talk([Turn(1.3, 2.0, "yes of course", "agent")])]).interruptions == 0


def test_figures_of_a_perfect_model():
    agent = [Turn(1.3, 2.0, "yes of course", "agent"), Turn(4.8, 1.0, "not today", "agent")]
    found = figures([_talk(agent)])
    assert found["text_bleu"] == pytest.approx(100) and found["text_wer"] == 0
    assert found["answered_in_time"] == 1 and found["follows_script"] == 1 and found["false_starts"] == 0
    assert found["turn_taking_model"] == found["turn_taking_reference"]


def test_figures_of_a_silent_model():
    found = figures([_talk([])])
    assert found["answered_in_time"] == 0 and found["response_latency"] is None and found["yields"] is None
    assert found["text_wer"] == 1
