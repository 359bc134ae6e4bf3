"""Sampled turn-taking has the properties that it claims."""

from __future__ import annotations

import numpy as np
import pytest

from speechdlm_ext.metrics.turn_taking import find_events
from speechdlm_ext.synthetic.dialogue import (
    SAMPLE_RATE,
    Clip,
    TurnTakingPriors,
    energy_segments,
    make_clip,
    make_noise,
    simulate_dialogue,
)
from speechdlm_ext.synthetic.espeak import GRAMMAR, make_sentence, vocabulary


class Tones:
    """Two speakers that are tones of 1 to 3 s; backchannels last 0.3 s."""

    speakers = ["high", "low"]

    def settings(self) -> dict[str, object]:
        return {}

    def utterance(self, speaker: str, kind: str, rng: np.random.Generator) -> Clip:
        seconds = 0.3 if kind in ("backchannel", "laughter") else rng.uniform(1, 3)
        time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        wave = np.sin(2 * np.pi * (440 if speaker == "high" else 220) * time).astype(np.float32)
        return make_clip(wave, [(0.0, len(wave) / SAMPLE_RATE)], "", kind)


def test_offsets_and_pauses() -> None:
    timing, rng = TurnTakingPriors(), np.random.default_rng(0)
    offsets = np.array([timing.sample_offset(rng) for _ in range(20000)])
    assert offsets.mean() == pytest.approx(0.2, abs=0.01)  # Stivers et al.: 208 ms; ours is 0.2
    assert 0.15 < (offsets < 0).mean() < 0.35
    histogram, edges = np.histogram(offsets, bins=np.arange(-1, 2, 0.1))
    assert 0.0 <= edges[histogram.argmax()] <= 0.2  # unimodal with the mode in 0 to 200 ms
    pauses = np.array([timing.sample_pause(rng) for _ in range(20000)])
    assert np.median(pauses) == pytest.approx(0.45, rel=0.03) and pauses.min() > 0.2


@pytest.mark.commands
def test_turns_of_a_long_conversation() -> None:
    talk = simulate_dialogue(Tones(), 1800, np.random.default_rng(1))
    events = find_events([talk.speech(0), talk.speech(1)], 1800)
    assert all(0.25 < seconds / 1800 < 0.7 for seconds in events.speech)
    assert np.mean(events.floor_transfers.durations) == pytest.approx(0.2, abs=0.12)
    assert events.overlaps_between and events.overlaps_within and events.interruptions
    per_minute = {n: len(getattr(events, n)) / 30 for n in ("ipus", "pauses", "gaps", "overlaps", "backchannels")}
    assert 12 < per_minute["ipus"] < 40 and per_minute["pauses"] > 2 and per_minute["gaps"] > 3
    assert 1 < per_minute["backchannels"] < 8, per_minute
    for channel in (0, 1):  # nobody talks over themself
        own = [u for u in talk.utterances if u.channel == channel]
        assert all(b.start >= a.end + 0.2 for a, b in zip(own, own[1:], strict=False))


def test_noise_has_the_level_that_it_is_asked_for() -> None:
    for colour in (0.0, 0.5, 0.9):
        noise = make_noise(160000, -60.0, colour, np.random.default_rng(2))
        assert 10 * np.log10(np.mean(noise.astype(float) ** 2)) == pytest.approx(-60, abs=0.5)


def test_energy_segments_split_at_pauses_only() -> None:
    wave = np.ones(SAMPLE_RATE, np.float32)
    wave[4000:6400] = 0.0  # 150 ms: a stop
    wave[9600:14400] = 0.0  # 300 ms: a pause
    assert energy_segments(wave) == [(0.0, 0.6), (0.9, 1.0)]
    assert energy_segments(np.zeros(100, np.float32)) == []
    click = np.concatenate([np.ones(400, np.float32), np.zeros(4000, np.float32), wave])
    assert energy_segments(click) == [(pytest.approx(0.275), pytest.approx(0.875)), (pytest.approx(1.175), 1.275)]
    cut = make_clip(wave, energy_segments(wave), "", "statement").cut(0.95)
    assert cut.speech[-1] == (pytest.approx(0.9), pytest.approx(0.95)) and cut.wave[-1] == 0
    # Of what begins while the speaker fades out, nothing is heard.
    assert make_clip(wave, energy_segments(wave), "", "statement").cut(0.92).speech == [(0.0, 0.6)]


def test_sentences_fill_every_slot() -> None:
    rng = np.random.default_rng(3)
    words: set[str] = set()
    for kind in ("statement", "question", "answer", "backchannel", "laughter"):
        for _ in range(400):
            sentence = make_sentence(kind, rng)
            assert "{" not in sentence and sentence.strip()
            words.update(sentence.lower().replace(",", "").split())
    assert words <= vocabulary() and len(words) > 70
    assert len({make_sentence("statement", rng) for _ in range(200)}) > 150
    assert all(GRAMMAR.values())
