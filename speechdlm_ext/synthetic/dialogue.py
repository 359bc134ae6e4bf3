"""One conversation: utterances placed in time on two channels, and their sound with each channel's noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from speechdlm_ext.synthetic.clips import SAMPLE_RATE, Clip, Segment, SpeechSource, Wave
from speechdlm_ext.synthetic.timing import TurnTiming

_APART = 0.21  # seconds that one speaker's utterances are at least apart: more than bounds an inter-pausal unit
# Utterances start on a grid of 20 ms, a frame of most unit encoders: the same words then give the same units, and a
# small model learns in minutes what would otherwise take hours of talk.
_GRID = 50  # Hz


@dataclass
class Utterance:
    """A clip on a channel, from ``start`` seconds on."""

    channel: int
    start: float
    clip: Clip

    @property
    def end(self) -> float:
        """Seconds."""
        return self.start + self.clip.duration


@dataclass
class Conversation:
    """``wave`` (2, N) at 16 kHz, the speakers of the channels, and the utterances in order of their start."""

    wave: Wave
    speakers: tuple[str, str]
    utterances: list[Utterance]
    noise_levels: tuple[float, float]  # dB re full scale

    def speech(self, channel: int) -> list[Segment]:
        """Ground truth: the stretches of speech on a channel, (start, end) in seconds."""
        own = [u for u in self.utterances if u.channel == channel]
        return [(round(u.start + a, 4), round(u.start + b, 4)) for u in own for a, b in u.clip.speech]


class _Planner:
    """Places utterances; what is free when on each channel, and who holds the floor."""

    def __init__(
        self, source: SpeechSource, speakers: tuple[str, str], timing: TurnTiming, rng: np.random.Generator
    ) -> None:
        self.source, self.speakers, self.timing, self.rng = source, speakers, timing, rng
        self.utterances: list[Utterance] = []
        self.free = [0.0, 0.0]

    def say(self, channel: int, kind: str, start: float) -> Utterance:
        clip = self.source.speak(self.speakers[channel], kind, self.rng)
        return self._place(Utterance(channel, max(start, self.free[channel]), clip))

    def _place(self, utterance: Utterance) -> Utterance:
        utterance.start = math.ceil(utterance.start * _GRID - 1e-6) / _GRID
        self.utterances.append(utterance)
        self.free[utterance.channel] = utterance.end + _APART
        return utterance

    def turn(self, holder: int, start: float, answer: bool) -> tuple[float, bool]:
        """One turn from ``start`` on; returns when the other speaker begins, and whether a question was left."""
        timing, rng = self.timing, self.rng
        length = timing.draw_turn_length(rng)
        broken_at = int(rng.integers(length)) if rng.random() < timing.interruption_share else -1
        for number in range(length):
            last = number == length - 1
            question = last and rng.random() < 0.4
            kind = "answer" if answer and number == 0 else "question" if question else "statement"
            spoken = self.say(holder, kind, start)
            if number == broken_at and spoken.clip.duration > 1.2:
                return self._break_into(spoken), False
            if last:
                latest = max(timing.draw_offset(rng), 0.4 - spoken.clip.duration)
                return spoken.end + latest, kind == "question"
            self._listen(1 - holder, spoken)
            start = spoken.end + timing.draw_pause(rng)
        raise AssertionError("a turn has at least one utterance")

    def _break_into(self, spoken: Utterance) -> float:
        """The listener begins before ``spoken`` ends, whose speaker gives way a little later."""
        moment = self.rng.uniform(*self.timing.interruption_point) * spoken.clip.duration
        stop = moment + self.rng.uniform(*self.timing.interruption_yield)
        spoken.clip = spoken.clip.cut(stop)
        self.free[spoken.channel] = spoken.end + _APART
        return spoken.start + moment

    def _listen(self, listener: int, spoken: Utterance) -> None:
        """Perhaps a backchannel (one in ten of them laughter) around the end of an utterance, turn unchanged."""
        if self.rng.random() >= self.timing.backchannel_share:
            return
        start = spoken.end + self.rng.uniform(*self.timing.backchannel_offset)
        if start >= self.free[listener]:
            self.say(listener, "laughter" if self.rng.random() < 0.1 else "backchannel", start)


def plan_utterances(
    source: SpeechSource, speakers: tuple[str, str], seconds: float, timing: TurnTiming, rng: np.random.Generator
) -> list[Utterance]:
    """Let two speakers talk for ``seconds``; what would go on after that is broken off there.

    Returns:
        Utterances in order of their start.
    """
    planner = _Planner(source, speakers, timing, rng)
    holder, start, answer = int(rng.integers(2)), rng.uniform(*timing.lead_in), False
    while start < seconds:
        start, answer = planner.turn(holder, start, answer)
        holder = 1 - holder
    kept = []
    for utterance in planner.utterances:
        utterance.clip = utterance.clip.cut(seconds - utterance.start) if utterance.end > seconds else utterance.clip
        if utterance.start < seconds - 0.1 and utterance.clip.speech:
            kept.append(utterance)
    return sorted(kept, key=lambda u: (u.start, u.channel))


def make_noise(length: int, level: float, colour: float, rng: np.random.Generator) -> Wave:
    """Noise (length,) of ``level`` dB re full scale; ``colour`` 0 is white, towards 1 more and more low-pass."""
    from scipy.signal import lfilter

    white = rng.standard_normal(length)
    noise = lfilter([np.sqrt(1 - colour**2)], [1.0, -colour], white)
    return (10 ** (level / 20) * noise).astype(np.float32)


def make_conversation(
    source: SpeechSource,
    seconds: float,
    rng: np.random.Generator,
    timing: TurnTiming | None = None,
    noise_levels: tuple[float, float] = (-72.0, -60.0),
) -> Conversation:
    """Draw two speakers and let them talk.

    Args:
        source: the voices.
        seconds: length of the conversation.
        rng: everything is drawn from it.
        timing: distributions of pauses, floor transfers and so on.
        noise_levels: each channel's noise floor is drawn uniformly from this range, dB re full scale.
    """
    pair = rng.choice(len(source.voices), size=2, replace=False)
    speakers = (source.voices[pair[0]], source.voices[pair[1]])
    utterances = plan_utterances(source, speakers, seconds, timing or TurnTiming(), rng)
    length = round(seconds * SAMPLE_RATE)
    levels = (float(rng.uniform(*noise_levels)), float(rng.uniform(*noise_levels)))
    wave = np.stack([make_noise(length, level, float(rng.uniform(0.3, 0.9)), rng) for level in levels])
    for utterance in utterances:
        first = round(utterance.start * SAMPLE_RATE)
        part = utterance.clip.wave[: length - first]
        wave[utterance.channel, first : first + len(part)] += part
    return Conversation(wave, speakers, utterances, levels)
