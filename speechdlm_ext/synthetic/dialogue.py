"""A synthetic dialogue: clips of two speakers placed in time on two channels, each channel over its own noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.intervals import bridge_silences

SAMPLE_RATE = 16000  # Hz
ACTIVE_LEVEL = -26.0  # dB re full scale, root mean square over the speech of a clip
_APART = 0.21  # s between two utterances of one speaker, at least: more than bounds an inter-pausal unit
# Utterances start on a grid of 20 ms, a frame of most unit encoders: the same words then give the same units, and a
# small model learns in minutes what would otherwise take hours of speech.
_GRID = 50  # Hz

Wave = NDArray[np.float32]
Segment = tuple[float, float]


@dataclass(frozen=True)
class TurnTakingPriors:
    """Distributions from which turn-taking is sampled; all times in seconds.

    What the sources report:

    * Terms (Heldner & Edlund 2010, Journal of Phonetics 38): a *pause* is silence within one speaker's speech, a *gap*
      silence at a change of speaker, an *overlap* a change of speaker before the first speaker has stopped. Gaps and
      overlaps are the two sides of one continuous distribution, the floor transfer offset, negative for overlaps.
    * Floor transfer offsets: the typical gap between turns is of the order of 200 ms (Levinson & Torreira 2015,
      Frontiers in Psychology 6:731); in ten languages the mean answer to a yes/no question came after 7 ms
      (Japanese) to 469 ms (Danish), 208 ms over all languages (Stivers et al. 2009, PNAS 106).
    * Pauses are log-normally distributed (Campione & Véronis 2002, Speech Prosody).

    The parametric forms and the numbers below are our own approximations to these findings:
    an exponentially modified Gaussian with mean 0.2 s, mode near 0.1 s and a quarter of its mass below zero for the
    offset; the shares of backchannels and interruptions are round numbers.
    """

    offset_mean: float = 0.0  # Gaussian part of the floor transfer offset
    offset_deviation: float = 0.22
    offset_tail: float = 0.2  # mean of its exponential part: the occasional long gap
    offset_limits: tuple[float, float] = (-0.8, 2.0)
    pause_median: float = 0.45
    pause_spread: float = 0.45  # standard deviation of the pause's logarithm
    pause_limits: tuple[float, float] = (0.21, 2.0)
    utterances_per_turn: float = 1.8  # mean of a geometric distribution
    backchannel_share: float = 0.25  # fraction of utterances that get a backchannel
    backchannel_offset: tuple[float, float] = (-0.35, 0.3)  # uniform, from the end of the utterance
    interruption_share: float = 0.08  # fraction of turns that are interrupted
    interruption_point: tuple[float, float] = (0.4, 0.8)  # uniform, fraction of the utterance already spoken
    interruption_yield: tuple[float, float] = (0.25, 0.6)  # uniform, until the interrupted speaker stops
    lead_in: tuple[float, float] = (0.2, 0.8)  # uniform, silence before the first word

    def sample_offset(self, rng: np.random.Generator) -> float:
        """Floor transfer offset in seconds: gap if positive, overlap if negative."""
        value = rng.normal(self.offset_mean, self.offset_deviation) + rng.exponential(self.offset_tail)
        return float(np.clip(value, *self.offset_limits))

    def sample_pause(self, rng: np.random.Generator) -> float:
        """Silence between two utterances of one turn, in seconds."""
        value = self.pause_median * np.exp(self.pause_spread * rng.standard_normal())
        return float(np.clip(value, *self.pause_limits))

    def sample_turn_length(self, rng: np.random.Generator) -> int:
        """Number of utterances in a turn, at least one."""
        return int(rng.geometric(1.0 / self.utterances_per_turn))


@dataclass
class Clip:
    """One utterance: ``wave`` (N,) at 16 kHz, starting and ending with speech; ``speech`` in seconds from its start."""

    wave: Wave
    speech: list[Segment]
    text: str = ""
    kind: str = field(default="statement")

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.wave) / SAMPLE_RATE

    def cut(self, seconds: float, fade: float = 0.03) -> Clip:
        """The first ``seconds`` of the clip, faded out over the last ``fade`` seconds: an interrupted speaker.

        A segment of speech that would begin within the fade is dropped: it would be inaudible.
        """
        length = max(0, min(len(self.wave), int(seconds * SAMPLE_RATE)))
        wave = self.wave[:length].copy()
        ramp = min(length, int(fade * SAMPLE_RATE))
        if ramp:
            wave[-ramp:] *= np.linspace(1.0, 0.0, ramp, dtype=np.float32)
        end = length / SAMPLE_RATE
        latest = max(end - fade, self.speech[0][0]) if self.speech else end
        return Clip(wave, [(a, min(b, end)) for a, b in self.speech if a <= latest and a < end], self.text, self.kind)


class SpeechSource(Protocol):
    """Where utterances come from."""

    @property
    def speakers(self) -> list[str]:
        """Names of the speakers, at least two."""

    def settings(self) -> dict[str, object]:
        """All that the audio depends on, as plain JSON values: when it changes, dialogues are generated again."""

    def utterance(self, speaker: str, kind: str, rng: np.random.Generator) -> Clip:
        """One utterance of ``kind`` (``statement``, ``question``, ``answer``, ``backchannel`` or ``laughter``)."""


def energy_segments(wave: Wave, depth: float = 40.0, bridge: float = 0.2, shortest: float = 0.05) -> list[Segment]:
    """Speech segments of a clip with little noise: where its level is within ``depth`` dB of its own peak.

    The level is computed every 5 ms. Silences shorter than ``bridge`` seconds (stop closures) count as speech: 0.2 s is
    the silence that bounds an inter-pausal unit. Isolated segments shorter than
    ``shortest`` seconds are clicks. Where the background is not ``depth`` dB below the peak, all of the clip is speech.

    Returns:
        Segments (start, end) in seconds.
    """
    step = SAMPLE_RATE // 200
    frames = len(wave) // step
    if not frames:
        return []
    power = np.mean(wave[: frames * step].reshape(frames, step).astype(np.float64) ** 2, axis=1)
    active = power > power.max() * 10 ** (-depth / 10)
    if not power.max():
        return []
    edges = np.flatnonzero(np.diff(np.concatenate(([0], active.astype(np.int8), [0]))))
    segments = [(a * step / SAMPLE_RATE, b * step / SAMPLE_RATE) for a, b in edges.reshape(-1, 2).tolist()]
    return [(a, b) for a, b in bridge_silences(segments, bridge) if b - a >= shortest]


def make_clip(wave: Wave, speech: list[Segment], text: str, kind: str) -> Clip:
    """Trim ``wave`` (N,) to its ``speech`` and bring the speech to :data:`ACTIVE_LEVEL` dB re full scale.

    Peaks above 0.9 of full scale are brought down with the whole clip, so that nothing clips.
    """
    if not speech:
        return Clip(np.zeros(0, np.float32), [], text, kind)
    first, last = (round(t * SAMPLE_RATE) for t in (speech[0][0], speech[-1][1]))
    wave = wave[first:last].astype(np.float32)
    inside = np.concatenate([wave[round(a * SAMPLE_RATE) - first : round(b * SAMPLE_RATE) - first] for a, b in speech])
    gain = 10 ** (ACTIVE_LEVEL / 20) / max(float(np.sqrt(np.mean(inside.astype(np.float64) ** 2))), 1e-9)
    gain = min(gain, 0.9 / max(float(np.abs(wave).max()), 1e-9))
    start = first / SAMPLE_RATE
    return Clip(wave * np.float32(gain), [(a - start, b - start) for a, b in speech], text, kind)


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
class SyntheticDialogue:
    """``wave`` (2, N) at 16 kHz, the speakers of the channels, and the utterances in order of their start."""

    wave: Wave
    speakers: tuple[str, str]
    utterances: list[Utterance]
    noise_levels: tuple[float, float]  # dB re full scale

    def speech(self, channel: int) -> list[Segment]:
        """Ground-truth segmentation: the speech segments of a channel, (start, end) in seconds."""
        own = [u for u in self.utterances if u.channel == channel]
        return [(round(u.start + a, 4), round(u.start + b, 4)) for u in own for a, b in u.clip.speech]


class _Planner:
    """Places utterances; ``free`` is the time from which each channel is free."""

    def __init__(
        self, source: SpeechSource, speakers: tuple[str, str], priors: TurnTakingPriors, rng: np.random.Generator
    ) -> None:
        self.source, self.speakers, self.priors, self.rng = source, speakers, priors, rng
        self.utterances: list[Utterance] = []
        self.free = [0.0, 0.0]

    def add(self, channel: int, kind: str, start: float) -> Utterance:
        clip = self.source.utterance(self.speakers[channel], kind, self.rng)
        return self._place(Utterance(channel, max(start, self.free[channel]), clip))

    def _place(self, utterance: Utterance) -> Utterance:
        utterance.start = math.ceil(utterance.start * _GRID - 1e-6) / _GRID
        self.utterances.append(utterance)
        self.free[utterance.channel] = utterance.end + _APART
        return utterance

    def turn(self, holder: int, start: float, answer: bool) -> tuple[float, bool]:
        """One turn from ``start`` on; returns when the other speaker begins, and whether it ended with a question."""
        priors, rng = self.priors, self.rng
        length = priors.sample_turn_length(rng)
        interrupted_at = int(rng.integers(length)) if rng.random() < priors.interruption_share else -1
        for number in range(length):
            last = number == length - 1
            question = last and rng.random() < 0.4
            kind = "answer" if answer and number == 0 else "question" if question else "statement"
            spoken = self.add(holder, kind, start)
            if number == interrupted_at and spoken.clip.duration > 1.2:
                return self._interrupt(spoken), False
            if last:
                latest = max(priors.sample_offset(rng), 0.4 - spoken.clip.duration)
                return spoken.end + latest, kind == "question"
            self._backchannel(1 - holder, spoken)
            start = spoken.end + priors.sample_pause(rng)
        raise AssertionError("a turn has at least one utterance")

    def _interrupt(self, spoken: Utterance) -> float:
        """The listener begins before ``spoken`` ends; its speaker stops a little later."""
        moment = self.rng.uniform(*self.priors.interruption_point) * spoken.clip.duration
        stop = moment + self.rng.uniform(*self.priors.interruption_yield)
        spoken.clip = spoken.clip.cut(stop)
        self.free[spoken.channel] = spoken.end + _APART
        return spoken.start + moment

    def _backchannel(self, listener: int, spoken: Utterance) -> None:
        """Perhaps a backchannel (one in ten is laughter) around the end of an utterance; the turn goes on."""
        if self.rng.random() >= self.priors.backchannel_share:
            return
        start = spoken.end + self.rng.uniform(*self.priors.backchannel_offset)
        if start >= self.free[listener]:
            self.add(listener, "laughter" if self.rng.random() < 0.1 else "backchannel", start)


def plan_utterances(
    source: SpeechSource, speakers: tuple[str, str], seconds: float, priors: TurnTakingPriors, rng: np.random.Generator
) -> list[Utterance]:
    """Place the utterances of two speakers within ``seconds``; what would go on after that is cut there.

    Returns:
        Utterances in order of their start.
    """
    planner = _Planner(source, speakers, priors, rng)
    holder, start, answer = int(rng.integers(2)), rng.uniform(*priors.lead_in), False
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


def simulate_dialogue(
    source: SpeechSource,
    seconds: float,
    rng: np.random.Generator,
    priors: TurnTakingPriors | None = None,
    noise_levels: tuple[float, float] = (-72.0, -60.0),
) -> SyntheticDialogue:
    """Sample two speakers and their dialogue.

    Args:
        source: of utterances.
        seconds: length of the dialogue.
        rng: everything is sampled from it.
        priors: distributions of pauses, floor transfers and so on.
        noise_levels: each channel's noise floor, sampled uniformly from this range, dB re full scale.
    """
    pair = rng.choice(len(source.speakers), size=2, replace=False)
    speakers = (source.speakers[pair[0]], source.speakers[pair[1]])
    utterances = plan_utterances(source, speakers, seconds, priors or TurnTakingPriors(), rng)
    length = round(seconds * SAMPLE_RATE)
    levels = (float(rng.uniform(*noise_levels)), float(rng.uniform(*noise_levels)))
    wave = np.stack([make_noise(length, level, float(rng.uniform(0.3, 0.9)), rng) for level in levels])
    for utterance in utterances:
        first = round(utterance.start * SAMPLE_RATE)
        part = utterance.clip.wave[: length - first]
        wave[utterance.channel, first : first + len(part)] += part
    return SyntheticDialogue(wave, speakers, utterances, levels)
