"""Confidence intervals by resampling whole conversations: what is said in one conversation is not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BootstrapOptions:
    """``resamples`` draws from ``seed``; intervals hold ``confidence`` of them."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 1


def draw_weights(conversations: int, options: BootstrapOptions, stream: int = 0) -> NDArray[np.float64]:
    """How often each conversation comes up in each resample.

    Args:
        conversations: number K of conversations, each equally likely.
        options: number R of resamples, seed.
        stream: another number gives other draws of the same seed, as a second corpus needs them.

    Returns:
        Counts (R, K); each row adds up to K.
    """
    rng = np.random.default_rng([options.seed, stream])
    drawn = rng.integers(conversations, size=(options.resamples, conversations), dtype=np.int64)
    drawn += np.arange(options.resamples)[:, None] * conversations
    counts = np.bincount(drawn.reshape(-1), minlength=options.resamples * conversations)
    return counts.reshape(options.resamples, conversations).astype(np.float64)


def ratios(weights: NDArray[np.float64], above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of sums in each resample, (R,); NaN where there is nothing to divide by.

    Args:
        weights: as :func:`draw_weights`, (R, K).
        above: of each conversation, for example its number of pauses, (K,).
        below: likewise, for example its minutes.
    """
    total = weights @ below
    return np.divide(weights @ above, total, out=np.full(len(weights), np.nan), where=total > 0)


def percentile_interval(values: NDArray[np.float64], options: BootstrapOptions) -> list[float] | None:
    """The interval that holds the middle ``confidence`` of the resampled values.

    The percentile method (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).

    Returns:
        [low, high], or None where fewer than half of the resamples have a value.
    """
    known = values[np.isfinite(values)]
    if not len(values) or len(known) * 2 < len(values):
        return None
    outside = 50 * (1 - options.confidence)
    low, high = np.percentile(known, [outside, 100 - outside])
    return [float(low), float(high)]
