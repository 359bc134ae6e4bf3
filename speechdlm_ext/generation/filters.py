"""Sampling filters: which of the next units may be sampled. A new one is a function here and a line in FILTERS.

Its option (of :class:`.DecodingOptions`, of the commands and of ``sample``) comes from that line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a command's --help does not wait for torch
    from torch import Tensor

OFF = -1


def top_p_filter(lprobs: Tensor, p: float) -> Tensor:
    """Keep the smallest set of units whose probability reaches p of the whole (Holtzman et al. 2020).

    Args:
        lprobs: log-probabilities ``(…, V)``.

    Returns:
        The same with all others at -inf.
    """
    ordered, order = lprobs.softmax(-1).sort(-1, descending=True)
    dropped = ordered.cumsum(-1) - ordered >= p
    dropped = dropped.scatter(-1, order, dropped)
    return lprobs.masked_fill(dropped, -math.inf)


def top_k_filter(lprobs: Tensor, k: int) -> Tensor:
    """Keep the k most probable units; arguments and result as :func:`top_p_filter`."""
    if k >= lprobs.size(-1):
        return lprobs
    return lprobs.masked_fill(lprobs < lprobs.topk(k, -1).values[..., -1:], -math.inf)


@dataclass(frozen=True)
class SamplingFilter:
    """A filter and its option.

    Attributes:
        option: its name; ``OFF`` for no filter.
        kind: of its value.
        apply: log-probabilities ``(…, V)`` and the value, to the same with what may not be sampled at -inf.
        valid: whether a value is in range; ``expected`` says so in words.
        help: for commands.
    """

    option: str
    kind: type
    apply: Callable[[Tensor, Any], Tensor]
    valid: Callable[[Any], bool]
    expected: str
    help: str

    @property
    def flag(self) -> str:
        """The option of commands."""
        return "--" + self.option.replace("_", "-")


# The first that is set applies: as in the published code, top-p takes precedence.
FILTERS = [
    SamplingFilter(
        "sampling_topp",
        float,
        top_p_filter,
        lambda p: 0 < p <= 1,
        "a number above 0 and up to 1",
        "sample from the smallest set of units whose probability reaches this; -1 for all",
    ),
    SamplingFilter(
        "sampling_topk",
        int,
        top_k_filter,
        lambda k: k >= 1,
        "1 or more",
        "sample from this many most probable units; -1 for all",
    ),
]


def filtered(lprobs: Tensor, options: Any) -> Tensor:
    """Log-probabilities ``(…, V)`` after the filter that is set in :class:`.DecodingOptions`."""
    for own in FILTERS:
        value = getattr(options, own.option)
        if value != OFF:
            return own.apply(lprobs, value)
    return lprobs
