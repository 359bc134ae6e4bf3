"""Whether a model follows its prompts: correlation of event durations between generated and real continuations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.bootstrap import BootstrapOptions, draw_weights, percentile_interval
from speechdlm_ext.metrics.events import KINDS, EventList, Events

FEWEST = 3  # prompts: two points are always on a line


def correlate(
    generated: Events, prompts: NDArray[np.int64], reference: Events, bootstrap: BootstrapOptions | None = None
) -> dict[str, Any]:
    """Pearson correlation, over prompts, of the mean duration of each kind of event.

    The protocol of Nguyen et al. (2022) and of SyncLLM (Veluri et al. 2024, section 5): a model continues 30 s of real
    conversation by 90 s, and the means of its continuation are compared with those of the real one. Several
    continuations of a prompt count as one, longer one.

    Args:
        generated: events of the continuations alone.
        prompts: for each generated continuation (K,), the number of the real one in ``reference``.
        reference: events of the real continuations.
        bootstrap: where given, each kind gets ``interval``, by resampling prompts.

    Returns:
        For each kind of event: ``r``, ``n`` (prompts in which both have such events), ``interval``, ``reason``
        (None, or why there is no ``r``).
    """
    prompts = np.asarray(prompts, np.int64)
    count = reference.conversations
    correlations: dict[str, Any] = {}
    for attribute, name in KINDS.items():
        mine: EventList = getattr(generated, attribute)
        theirs: EventList = getattr(reference, attribute)
        owner = prompts[mine.conversation] if len(mine) else np.zeros(0, np.int64)
        x, y = _means(owner, mine.durations, count), _means(theirs.conversation, theirs.durations, count)
        both = np.isfinite(x) & np.isfinite(y)
        correlations[name] = _pearson(x[both], y[both], bootstrap)
    return correlations


def _means(owner: NDArray[np.int64], durations: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Mean duration for each prompt (P,); NaN without an event."""
    number, seconds = np.bincount(owner, minlength=count), np.bincount(owner, durations, count)
    return np.divide(seconds, number, out=np.full(count, np.nan), where=number > 0)


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64], bootstrap: BootstrapOptions | None) -> dict[str, Any]:
    figures: dict[str, Any] = {"r": None, "n": len(x), "reason": None}
    if bootstrap:
        figures["interval"] = None
    if len(x) < FEWEST:
        figures["reason"] = f"{FEWEST} prompts with such events on both sides are needed, there are {len(x)}"
    elif np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        figures["reason"] = "the mean durations do not differ between prompts"
    else:
        figures["r"] = float(_weighted(np.ones((1, len(x))), x, y)[0])
        if bootstrap:
            figures["interval"] = percentile_interval(_weighted(draw_weights(len(x), bootstrap, 3), x, y), bootstrap)
    return figures


def _weighted(weights: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation with each row of ``weights`` (R, P), (R,); NaN where a side does not vary."""
    share = weights / weights.sum(axis=1, keepdims=True)
    x, y = x - x.mean(), y - y.mean()  # smaller numbers lose fewer digits below
    across = share @ (x * y) - (share @ x) * (share @ y)
    spread = (share @ x**2 - (share @ x) ** 2) * (share @ y**2 - (share @ y) ** 2)
    return np.divide(across, np.sqrt(np.maximum(spread, 0)), out=np.full(len(weights), np.nan), where=spread > 1e-18)
