"""Turn-taking figures of a large corpus, activity given: ours beside the interval code that pyannote.core makes easy.

The baseline finds units, pauses, gaps and overlaps, the four events of dGSLM's tables; ours finds these and the six
others, with means, quantiles and 1000 bootstrap resamples. Both are one process.
"""

from __future__ import annotations

import numpy as np

from benchmarks.comparison import Comparison, in_turns, seconds
from benchmarks.sides import Settings
from speechdlm_ext.errors import InputError
from speechdlm_ext.synthetic.dialogue import TurnTakingPriors

HOURS = 100.0  # of ours
BASELINE_HOURS = 1.0
DIALOGUE = 120.0  # seconds
ROUNDS = 5
Talk = tuple[list[list[tuple[float, float]]], float]


def measure(settings: Settings) -> list[Comparison]:
    """Hours of two-channel dialogue a second: events and figures, activity given."""
    try:
        import pyannote.core  # noqa: F401
    except ImportError:
        raise InputError("the part metrics needs its baseline: pip install pyannote.core") from None
    talks = make_talks(HOURS)
    few = talks[: round(BASELINE_HOURS * 3600 / DIALOGUE)]
    _agree(few)
    baseline, ours = in_turns(
        lambda: BASELINE_HOURS / seconds(lambda: _count_with_pyannote(few)),
        lambda: HOURS / seconds(lambda: _figures(talks)),
        settings.rounds or ROUNDS,
    )
    bound = f"at least 10 times, and {HOURS:g} hours in 10 s"
    keeps = lambda before, after: after >= 10 * before and HOURS / after <= 10  # noqa: E731
    return [Comparison("metrics", baseline, ours, "hours/s", more_is_better=True, bound=bound, keeps=keeps)]


def make_talks(hours: float, seed: int = 1) -> list[Talk]:
    """Dialogues of two minutes as TurnTakingPriors draws them, backchannels included."""
    rng, timing = np.random.default_rng(seed), TurnTakingPriors()
    return [_make_talk(rng, timing) for _ in range(round(hours * 3600 / DIALOGUE))]


def _make_talk(rng: np.random.Generator, timing: TurnTakingPriors) -> Talk:
    channels: list[list[tuple[float, float]]] = [[], []]
    time, who = float(rng.uniform(0.2, 0.8)), 0
    while time < DIALOGUE - 10:
        for _ in range(timing.sample_turn_length(rng)):
            end = time + 0.3 + float(rng.exponential(1.5))
            channels[who].append((round(time, 2), round(end, 2)))
            if rng.random() < timing.backchannel_share:
                start = end + float(rng.uniform(*timing.backchannel_offset))
                channels[1 - who].append((round(start, 2), round(start + 0.4, 2)))
            time = end + timing.sample_pause(rng)
        time, who = max(0.0, end + timing.sample_offset(rng)), 1 - who
    return channels, DIALOGUE


def _figures(talks: list[Talk]) -> object:
    from speechdlm_ext.metrics.bootstrap import BootstrapOptions
    from speechdlm_ext.metrics.summary import summarize
    from speechdlm_ext.metrics.turn_taking import find_events_of_many

    return summarize(find_events_of_many(talks), BootstrapOptions())


def _count_with_pyannote(talks: list[Talk]) -> dict[str, int]:
    """How many units, pauses, gaps and overlaps there are."""
    from pyannote.core import Segment, Timeline

    counts = {"ipu": 0, "pause": 0, "gap": 0, "overlap": 0}
    for channels, _ in talks:
        units = [Timeline([Segment(a, b) for a, b in own]).support(collar=0.2 - 1e-6) for own in channels]
        counts["ipu"] += sum(map(len, units))
        counts["overlap"] += len(units[0].crop(units[1], mode="intersection"))
        for silence in units[0].union(units[1]).support().gaps():
            before = {c for c, own in enumerate(units) if own.overlapping(silence.start - 1e-6)}
            after = {c for c, own in enumerate(units) if own.overlapping(silence.end + 1e-6)}
            counts["pause" if before & after else "gap"] += 1
    return counts


def _agree(talks: list[Talk]) -> None:
    """The baseline is no straw man only if it counts the same."""
    from speechdlm_ext.metrics.turn_taking import find_events_of_many

    events = find_events_of_many(talks)
    ours = {"ipu": len(events.ipus), "pause": len(events.pauses), "gap": len(events.gaps),
            "overlap": len(events.overlaps)}  # fmt: skip
    theirs = _count_with_pyannote(talks)
    for kind, count in ours.items():
        if abs(theirs[kind] - count) > 0.01 * count:
            raise InputError(f"the baseline counts {theirs[kind]} of {kind}, we {count}: they should agree")
