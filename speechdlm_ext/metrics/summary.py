"""Figures of a corpus: number and seconds per minute, mean, median and quantiles of each kind of turn-taking event.

An unknown figure is None, with the reason beside it: never NaN, and never 0 for lack of data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.bootstrap import BootstrapOptions, draw_weights, percentile_interval, ratios
from speechdlm_ext.metrics.events import KINDS, EventList, Events

QUANTILES = (0.1, 0.25, 0.75, 0.9)
NO_INTERVAL = "intervals need two conversations or more"
# What only a conversation of two or more channels can have: others do not count as time observed.
OF_SEVERAL_CHANNELS = frozenset(
    ("gap", "overlap", "overlap_within", "overlap_between", "backchannel", "interruption", "floor_transfer_offset")
)


def describe(durations: Sequence[float] | NDArray[np.float64], minutes: float, reason: str = "") -> dict[str, Any]:
    """Figures of one kind of event.

    Args:
        durations: seconds.
        minutes: of conversation that was observed.
        reason: why nothing can be said, if so.

    Returns:
        ``n``; ``per_minute`` and ``seconds_per_minute``; ``mean``, ``median`` and ``quantiles`` (seconds, by share);
        ``reason``: None, or why some of these are None.
    """
    values = np.asarray(durations, np.float64)
    reason = reason or ("no time was observed" if not minutes else "")
    known = not reason
    if known and not len(values):
        reason = "there is none"
    return {
        "n": len(values) if known else None,
        "per_minute": len(values) / minutes if known else None,
        "seconds_per_minute": float(values.sum()) / minutes if known else None,
        "mean": float(values.mean()) if known and len(values) else None,
        "median": float(np.median(values)) if known and len(values) else None,
        "quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
        if known and len(values)
        else None,
        "reason": reason or None,
    }


def summarize(events: Events, bootstrap: BootstrapOptions | None = None) -> dict[str, Any]:
    """All figures of (pooled) events.

    Args:
        events: of one conversation or several.
        bootstrap: where given, each kind of event gets ``interval``: confidence intervals of ``per_minute``,
            ``seconds_per_minute`` and ``mean``, by resampling conversations; None, with a reason, with fewer than two.

    Returns:
        For each kind of event (``ipu``, ``pause``, ``gap``, …, ``floor_transfer_offset``, whose seconds are signed) the
        figures of :func:`describe`; ``speech_share``, for each channel the share of the time in which it speaks, of
        the conversations that have it; ``conversations`` and ``minutes`` observed.
    """
    figures: dict[str, Any] = {"conversations": events.conversations, "minutes": events.duration / 60}
    figures["speech_share"] = _speech_share(events) if events.duration else None
    weights = None
    if bootstrap is not None and events.conversations > 1:
        weights = draw_weights(events.conversations, bootstrap)
    for attribute, name in KINDS.items():
        kind: EventList = getattr(events, attribute)
        observed = observed_minutes(events, name)
        figures[name] = describe(kind.durations, float(observed.sum()), why_unknown(events, name))
        if bootstrap is not None:
            known = figures[name]["per_minute"] is not None and weights is not None
            figures[name]["interval"] = _intervals(kind, observed, weights, bootstrap) if known else None
            if weights is None and not figures[name]["reason"]:
                figures[name]["reason"] = NO_INTERVAL
    return figures


def _speech_share(events: Events) -> list[float | None]:
    there = events.channel_counts[:, None] > np.arange(events.channel_counts.max())  # (K, C)
    seconds = (there * events.durations[:, None]).sum(axis=0)
    return [s / of if of else None for s, of in zip(events.speech, seconds.tolist(), strict=False)]


def observed_minutes(events: Events, name: str) -> NDArray[np.float64]:
    """Minutes of each conversation that can have events of the kind ``name``, (K,)."""
    fit = events.channel_counts > 1 if name in OF_SEVERAL_CHANNELS else events.channel_counts > 0
    return np.where(fit, events.durations / 60, 0.0)


def why_unknown(events: Events, name: str) -> str:
    """Why nothing can be said about events of the kind ``name``; empty if something can."""
    if not events.conversations:
        return "there is no conversation"
    if not events.duration:
        return "no time was observed"
    if not observed_minutes(events, name).any():
        return "one channel only"
    if not events.channel_speech.any():
        return "no speech was found"
    return ""


def counts_and_seconds(kind: EventList, conversations: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Number of events and their seconds in each conversation, (K,) each."""
    count = np.bincount(kind.conversation, minlength=conversations).astype(np.float64)
    seconds = np.bincount(kind.conversation, kind.durations, conversations).astype(np.float64)
    return count, seconds


def _intervals(
    kind: EventList, minutes: NDArray[np.float64], weights: NDArray[np.float64] | None, options: BootstrapOptions
) -> dict[str, list[float] | None] | None:
    if weights is None:
        return None
    count, seconds = counts_and_seconds(kind, len(minutes))
    return {
        "per_minute": percentile_interval(ratios(weights, count, minutes), options),
        "seconds_per_minute": percentile_interval(ratios(weights, seconds, minutes), options),
        "mean": percentile_interval(ratios(weights, seconds, count), options),
    }
