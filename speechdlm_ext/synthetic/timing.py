"""When people speak: the distributions that pauses, floor transfers, backchannels and interruptions are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TurnTiming:
    """Distributions of conversational timing; all times in seconds.

    What the sources say:

    * Terms (Heldner & Edlund 2010, Journal of Phonetics 38): a *pause* is silence inside one speaker's talk, a *gap*
      silence at a change of speaker, an *overlap* a change of speaker before the first one has stopped. Gaps and
      overlaps are the two sides of one continuous distribution, the floor transfer offset, negative for overlaps.
    * Floor transfer offsets: the typical gap between turns is of the order of 200 ms (Levinson & Torreira 2015,
      Frontiers in Psychology 6:731); in ten languages the mean answer to a yes/no question came after 7 ms
      (Japanese) to 469 ms (Danish), 208 ms over all (Stivers et al. 2009, PNAS 106).
    * Pauses are log-normally distributed (Campione & Véronis 2002, Speech Prosody).

    The parametric forms and the numbers below are our own approximations to these findings, not figures of theirs:
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
    backchannel_share: float = 0.25  # of utterances that the listener answers with a backchannel
    backchannel_offset: tuple[float, float] = (-0.35, 0.3)  # uniform, from the end of the utterance
    interruption_share: float = 0.08  # of turns that the listener breaks into
    interruption_point: tuple[float, float] = (0.4, 0.8)  # uniform, share of the utterance already spoken
    interruption_yield: tuple[float, float] = (0.25, 0.6)  # uniform, until the interrupted speaker stops
    lead_in: tuple[float, float] = (0.2, 0.8)  # uniform, silence before the first word

    def draw_offset(self, rng: np.random.Generator) -> float:
        """Floor transfer offset in seconds: gap if positive, overlap if negative."""
        value = rng.normal(self.offset_mean, self.offset_deviation) + rng.exponential(self.offset_tail)
        return float(np.clip(value, *self.offset_limits))

    def draw_pause(self, rng: np.random.Generator) -> float:
        """Silence between two utterances of one turn, in seconds."""
        value = self.pause_median * np.exp(self.pause_spread * rng.standard_normal())
        return float(np.clip(value, *self.pause_limits))

    def draw_turn_length(self, rng: np.random.Generator) -> int:
        """Number of utterances in a turn, at least one."""
        return int(rng.geometric(1.0 / self.utterances_per_turn))
