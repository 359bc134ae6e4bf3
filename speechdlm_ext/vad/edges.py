"""Beginnings, ends and short silences of speech to 10 ms, by the level of the sound where a network has found speech.

A network that looks at windows of 32 ms, and that remembers, knows where there is speech, but not to within a few
hundredths of a second when it begins and ends, and it talks over silences of a fifth of a second. The level knows
these, once it is known what is speech and what is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.intervals import Interval, bridge_silences
from speechdlm_ext.vad.crosstalk import leaking_frames
from speechdlm_ext.vad.fading import FADE, SWELL, extend_into_noise
from speechdlm_ext.vad.levels import FRAME_SHIFT, MARGIN, ChannelLevels, frames_within


@dataclass(frozen=True)
class EdgeOptions:
    """Where speech begins and ends: levels in dB, times in seconds.

    A frame is audible that is ``above_noise`` over the noise, taken in bands, and less than ``below_loud`` under the
    loud speech of its stretch. Speech begins and ends with what is audible within ``reach`` of where the network has it
    begin and end, and is parted by silences of ``shortest_silence`` or more in which the network doubts, or another
    channel leaks in (:mod:`.crosstalk`). ``swell`` and ``fade`` are of :func:`.fading.extend_into_noise`.
    """

    above_noise: float = 3.0
    below_loud: float = 38.0
    reach: float = 0.45
    shortest_silence: float = 0.15
    doubt: float = 0.5  # the network's probability below which a silence inside its speech is believed
    swell: float = SWELL
    fade: float = FADE
    least_range: float = 12.0  # of loud speech over noise; with less, the level does not say where speech ends
    start_shift: float = -0.01  # added to beginnings where the level says nothing
    end_shift: float = -0.06  # likewise to ends: the network lets go late


_FEWEST = 50  # frames of noise from which it is known
_LAG = 0.064  # seconds by which the network notices late
_LEAKED = 0.2  # share of a stretch that is another channel's, from which all of it is


@dataclass(frozen=True)
class _Audible:
    """What the level says of each frame (T,).

    Attributes:
        frames: whether there is speech, by the level alone.
        foreign: whether what is heard is another channel.
        certain: whether it cannot be another channel.
        over_noise: level over the noise in dB, -inf where there is no speech, whatever is heard.
        hidden: dB of speech, down to ``below_loud``, that the noise hides.
    """

    frames: NDArray[np.bool_]
    foreign: NDArray[np.bool_]
    certain: NDArray[np.bool_]
    over_noise: NDArray[np.float64]
    hidden: float


def refine_edges(
    stretches: Sequence[Interval],
    channel: ChannelLevels,
    options: EdgeOptions | None = None,
    chances: NDArray[np.float64] | None = None,
    others: Sequence[ChannelLevels] = (),
) -> list[Interval]:
    """Move each beginning and end to where the level says, and part stretches at silences.

    Args:
        stretches: (start, end) in seconds, in order and apart.
        channel: levels of the whole channel.
        options: thresholds.
        chances: the network's probability of speech in each frame (T,); None: it never doubts.
        others: levels of the recording's other channels. What leaks in from them is left out.

    Returns:
        (start, end) in seconds, in order; neighbours may touch, and do not overlap.
    """
    options = options or EdgeOptions()
    audible = _listen(stretches, channel, options, others)
    moved: list[Interval] = []
    for number, (start, end) in enumerate(stretches):
        # Half of the silence on either side is the neighbour's.
        first = max((stretches[number - 1][1] + start) / 2 if number else 0.0, start - options.reach)
        after = (stretches[number + 1][0] + end) / 2 if number + 1 < len(stretches) else np.inf
        if audible is None:
            moved.append((max(first, start + options.start_shift), end + options.end_shift))
            continue
        span = (first, min(after, end + options.reach, len(channel.level) * FRAME_SHIFT))
        parts = [p for p in _parts(audible.frames, span, options) if p[1] > start and p[0] < end]
        parts = [p for p in parts if _share(audible.certain, *p)]
        if not parts:
            if _share(audible.foreign, start, end) <= _LEAKED:
                moved.append((max(first, start + options.start_shift), end + options.end_shift))
            continue
        parts = _keep_far_edges(parts, (start, end), audible, options)
        moved += _part_where_doubted(parts, audible.foreign, chances, options)
    moved = [(start, end) for start, end in moved if end > start]
    if audible is None:
        return moved
    return extend_into_noise(moved, audible.over_noise, audible.hidden, options.swell, options.fade)


def _listen(
    stretches: Sequence[Interval], channel: ChannelLevels, options: EdgeOptions, others: Sequence[ChannelLevels]
) -> _Audible | None:
    """Which frames are audible as speech; None where noise and speech cannot be told apart."""
    level = channel.level
    inside = frames_within(stretches, len(level), MARGIN)
    if inside.sum() < 1 or (~inside).sum() < _FEWEST:
        return None
    # While another channel leaks in, there is more than noise.
    leaking, doubtful = leaking_frames(channel, others, float(np.percentile(level[~inside], 25)))
    quiet = ~inside & ~leaking if (~inside & ~leaking).sum() >= _FEWEST else ~inside
    over = channel.over_noise(channel.powers[:, quiet].mean(axis=1))
    over -= np.median(over[quiet])
    clear = float(np.percentile(over[inside], 99))
    if clear < options.least_range:
        return None
    over_noise = over > options.above_noise
    foreign = over_noise & leaking
    hidden = max(0.0, options.below_loud - (clear - options.above_noise))
    total = channel.total()
    own = (total > _floors(stretches, total, options)) & ~foreign
    return _Audible(over_noise & own, foreign, ~doubtful, np.where(own, over, -np.inf), hidden)


def _floors(stretches: Sequence[Interval], level: NDArray[np.float64], options: EdgeOptions) -> NDArray[np.float64]:
    """Level below which nothing is speech: (T,); by each stretch's own loud speech, as not all are equally loud."""
    floors = np.full(len(level), np.inf)
    for start, end in stretches:
        own = level[round(start / FRAME_SHIFT) : round(end / FRAME_SHIFT)]
        if len(own):
            first, last = round((start - options.reach) / FRAME_SHIFT), round((end + options.reach) / FRAME_SHIFT)
            part = slice(max(0, first), last)
            floors[part] = np.minimum(floors[part], np.percentile(own, 99) - options.below_loud)
    return floors


def _parts(frames: NDArray[np.bool_], span: Interval, options: EdgeOptions) -> list[Interval]:
    """Stretches of ``frames`` within ``span``, in seconds; short silences are bridged."""
    first, last = round(span[0] / FRAME_SHIFT), round(span[1] / FRAME_SHIFT)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], frames[first:last].astype(np.int8), [0])))).reshape(-1, 2)
    runs = [((first + a) * FRAME_SHIFT, (first + b) * FRAME_SHIFT) for a, b in edges.tolist()]
    return bridge_silences(runs, options.shortest_silence)


def _keep_far_edges(
    parts: list[Interval], stretch: Interval, audible: _Audible, options: EdgeOptions
) -> list[Interval]:
    """Where nothing near an edge of the network's is audible, the edge stays: unless another channel is heard there."""
    (start, end), first, last = stretch, parts[0][0], parts[-1][1]
    if first > start + options.reach and not _share(audible.foreign, start, first):
        parts = [(start + options.start_shift, parts[0][1]), *parts[1:]]
    if last < end - options.reach and not _share(audible.foreign, last, end):
        parts = [*parts[:-1], (parts[-1][0], end + options.end_shift)]
    return parts


def _part_where_doubted(
    parts: list[Interval], foreign: NDArray[np.bool_], chances: NDArray[np.float64] | None, options: EdgeOptions
) -> list[Interval]:
    """Join neighbours between which the network does not doubt that there is speech, and that on this channel."""
    kept = parts[:1]
    for start, end in parts[1:]:
        silence = slice(round(kept[-1][1] / FRAME_SHIFT), round((start + _LAG) / FRAME_SHIFT) + 1)
        doubted = chances is not None and chances[silence].min(initial=1.0) <= options.doubt
        if doubted or _share(foreign, kept[-1][1], start) > _LEAKED:
            kept.append((start, end))
        else:
            kept[-1] = (kept[-1][0], end)
    return kept


def _share(frames: NDArray[np.bool_], start: float, end: float) -> float:
    """Share of the frames from ``start`` to ``end`` seconds."""
    part = frames[max(0, round(start / FRAME_SHIFT)) : max(0, round(end / FRAME_SHIFT))]
    return float(part.mean()) if len(part) else 0.0
