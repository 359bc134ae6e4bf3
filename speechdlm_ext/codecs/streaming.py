"""Functions over a stream: what arrives goes through stages, each of which keeps what its next outputs depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Stage(Protocol):
    """A part of a codec over a stream."""

    def push(self, x: Tensor | None, last: bool) -> Tensor | None:
        """Take what arrived ``(B, …, T)``, give what is final; None is nothing. ``last``: nothing follows."""
        ...


class Windowed:
    """A function whose outputs depend on a bounded number of steps around them: exact, and in constant memory.

    A step is ``size_in`` positions of the input and ``size_out`` of the output.

    Args:
        function: ``(B, …, n · size_in)`` to ``(B, …, n · size_out)``.
        before: steps that an output depends on before its own.
        after: the same after it; outputs come so much later.
        first: steps to wait for at the beginning, where padding reflects.
        size_in: as above.
        size_out: as above.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        before: int,
        after: int = 0,
        first: int = 1,
        size_in: int = 1,
        size_out: int = 1,
    ) -> None:
        self._function = function
        self._before, self._after, self._first = before, after, first
        self._in, self._out = size_in, size_out
        self._held: Tensor | None = None
        self._done = 0  # steps of what is held whose outputs were given
        self._began = False

    def push(self, x: Tensor | None, last: bool) -> Tensor | None:
        """See :class:`Stage`."""
        if x is not None:
            self._held = x if self._held is None else torch.cat((self._held, x), -1)
        if self._held is None:
            return None
        steps = -(-self._held.size(-1) // self._in) if last else self._held.size(-1) // self._in
        ready = steps - self._done - (0 if last else self._after)
        if ready < 1 or not (last or self._began or steps >= self._first):
            return None
        self._began = True
        window = self._held if last else self._held[..., : steps * self._in]
        done = self._done + ready
        result = self._function(window)[..., self._done * self._out : done * self._out]
        self._done = min(done, self._before)
        self._held = self._held[..., (done - self._done) * self._in :].clone()
        return result


class Stateful:
    """A function of an input and a state: ``(x, state) → (y, state)``; the first state is None."""

    def __init__(self, function: Callable[[Tensor, Any], tuple[Tensor, Any]]) -> None:
        self._function = function
        self._state: Any = None

    def push(self, x: Tensor | None, last: bool) -> Tensor | None:
        """See :class:`Stage`."""
        if x is None:
            return None
        result, self._state = self._function(x, self._state)
        return result


def push(stages: Sequence[Stage], x: Tensor | None, last: bool) -> Tensor | None:
    """Through all stages, one after the other."""
    for stage in stages:
        x = stage.push(x, last)
    return x
