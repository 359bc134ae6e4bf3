"""Two corpora side by side: differences of rates, distances of distributions, and how alike two halves of one are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.bootstrap import BootstrapOptions, draw_weights, percentile_interval, ratios
from speechdlm_ext.metrics.events import KINDS, EventList, Events, select_conversations
from speechdlm_ext.metrics.summary import NO_INTERVAL, counts_and_seconds, observed_minutes, summarize, why_unknown

DIFFERENCES = ("per_minute", "seconds_per_minute", "mean", "median")
_BIN = 0.01  # seconds, of the histograms that distances are resampled with
_CELLS = 4_000_000  # of a histogram for each conversation
_DISTANCE_RESAMPLES = 200  # a distance costs far more than a ratio


def wasserstein(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Wasserstein-1 (earth mover's) distance of two samples, in their unit.

    For durations it is the seconds by which events must be lengthened or shortened, on average, to turn one
    distribution into the other.
    """
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(first, second))


def compare(generated: Events, reference: Events, bootstrap: BootstrapOptions | None = None) -> dict[str, Any]:
    """How far the events of one corpus are from those of another.

    Args:
        generated, reference: pooled events.
        bootstrap: where given, and both corpora have two conversations or more, each kind gets ``interval``.

    Returns:
        For each kind of event: ``per_minute``, ``seconds_per_minute``, ``mean`` and ``median``, generated less
        reference; ``wasserstein``, the distance of the distributions of durations (s); ``interval``, confidence
        intervals of all of these but the median; ``reason``, why some are None. ``speech_share``: differences for each
        channel, or None.
    """
    mine, theirs = summarize(generated), summarize(reference)
    distance: dict[str, Any] = {"speech_share": _share_differences(mine["speech_share"], theirs["speech_share"])}
    weights = None
    if bootstrap and min(generated.conversations, reference.conversations) > 1:
        weights = (
            draw_weights(generated.conversations, bootstrap),
            draw_weights(reference.conversations, bootstrap, 1),
        )
    for attribute, name in KINDS.items():
        figures = _difference(mine[name], theirs[name])
        kinds: tuple[EventList, EventList] = getattr(generated, attribute), getattr(reference, attribute)
        unknown = why_unknown(generated, name) or why_unknown(reference, name)
        some = not unknown and len(kinds[0]) > 0 and len(kinds[1]) > 0
        figures["wasserstein"] = wasserstein(kinds[0].durations, kinds[1].durations) if some else None
        if bootstrap:
            minutes = observed_minutes(generated, name), observed_minutes(reference, name)
            known = weights is not None and not unknown
            figures["interval"] = _intervals(kinds, minutes, weights, bootstrap) if known and weights else None
            if weights is None and not figures["reason"]:
                figures["reason"] = NO_INTERVAL
        distance[name] = figures
    return distance


def compare_halves(reference: Events, splits: int = 20, seed: int = 1) -> dict[str, Any] | None:
    """How far two halves of one corpus are from each other: the baseline below which no distance can be expected.

    Conversations are assigned to two halves at random, ``splits`` times. Half a corpus scatters more than a whole
    one, so the baseline is a little too high.

    Returns:
        For each kind of event the mean absolute value of each figure of :func:`compare`, and ``reason``; None with
        fewer than two conversations.
    """
    count = reference.conversations
    if count < 2:
        return None
    rng = np.random.default_rng([seed, 2])
    distances = []
    for _ in range(splits):
        order = rng.permutation(count)
        one, other = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
        distances.append(compare(select_conversations(reference, one), select_conversations(reference, other)))
    baseline: dict[str, Any] = {"splits": splits}
    for name in KINDS.values():
        rows = [distance[name] for distance in distances]
        means = {key: _mean_size([row[key] for row in rows]) for key in (*DIFFERENCES, "wasserstein")}
        reasons = [row["reason"] for row in rows if row["reason"]]
        baseline[name] = {**means, "reason": reasons[0] if reasons and None in means.values() else None}
    shares = [distance["speech_share"] for distance in distances if distance["speech_share"] is not None]
    shares = [share for share in shares if len(share) == reference.channel_counts.max()]  # halves may lack a channel
    baseline["speech_share"] = np.abs(shares).mean(axis=0).tolist() if shares else None
    return baseline


def _mean_size(values: list[float | None]) -> float | None:
    known = [abs(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        key: None if mine[key] is None or theirs[key] is None else mine[key] - theirs[key] for key in DIFFERENCES
    }
    reasons = [
        f"{who}: {side['reason']}" for who, side in (("generated", mine), ("reference", theirs)) if side["reason"]
    ]
    figures["reason"] = "; ".join(reasons) or None
    return figures


def _share_differences(mine: list[float | None] | None, theirs: list[float | None] | None) -> list[float] | None:
    if not mine or not theirs or len(mine) != len(theirs):
        return None
    known = [a - b for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
    return known if len(known) == len(mine) else None


def _intervals(
    kinds: tuple[EventList, EventList],
    minutes: tuple[NDArray[np.float64], NDArray[np.float64]],
    weights: tuple[NDArray[np.float64], NDArray[np.float64]],
    options: BootstrapOptions,
) -> dict[str, list[float] | None]:
    values = []
    for kind, time, weight in zip(kinds, minutes, weights, strict=True):
        count, seconds = counts_and_seconds(kind, len(time))
        values.append((ratios(weight, count, time), ratios(weight, seconds, time), ratios(weight, seconds, count)))
    intervals = {
        name: percentile_interval(mine - theirs, options)
        for name, mine, theirs in zip(DIFFERENCES, *values, strict=False)
    }
    intervals["wasserstein"] = percentile_interval(_resampled_distances(kinds, weights), options)
    return intervals


def _resampled_distances(
    kinds: tuple[EventList, EventList], weights: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Wasserstein-1 distance in each of the first resamples, from histograms in bins of 10 ms or what memory allows."""
    both = np.concatenate([kind.durations for kind in kinds])
    if not len(kinds[0]) or not len(kinds[1]):
        return np.full(1, np.nan)
    low, high = float(both.min()), float(both.max())
    most = max(10, _CELLS // max(weight.shape[1] for weight in weights))
    width = max(_BIN, (high - low) / most)
    bins = int((high - low) / width) + 1
    shares = []
    for kind, weight in zip(kinds, weights, strict=True):
        place = kind.conversation * bins + ((kind.durations - low) / width).astype(np.int64)
        table = np.bincount(place, minlength=weight.shape[1] * bins).reshape(weight.shape[1], bins)
        filled = (weight[:_DISTANCE_RESAMPLES] @ table).cumsum(axis=1)
        total = filled[:, -1:]
        shares.append(np.divide(filled, total, out=np.full(filled.shape, np.nan), where=total > 0))
    return np.abs(shares[0] - shares[1]).sum(axis=1) * width
