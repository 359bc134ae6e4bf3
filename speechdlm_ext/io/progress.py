"""How far a long piece of work on sound is, and when it will be done: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

_EVERY = 60.0  # seconds between two lines


class Sound(Protocol):
    """Something done that has a length in seconds."""

    @property
    def seconds(self) -> float: ...


Done = TypeVar("Done", bound=Sound)
Item = TypeVar("Item")


def follow(
    items: Iterable[Done],
    seconds: float,
    what: str,
    say: Callable[[str], object] = print,
    every: float = _EVERY,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Done]:
    """The same items, shown as they come.

    Args:
        items: what is done, one by one.
        seconds: length of all of them.
        what: one word or two, ``encoding``.
        say: called with lines, where standard error is no terminal.
        every: seconds between two lines.
        clock: time in seconds.
    """
    if sys.stderr.isatty():
        yield from _bar(items, seconds, what)
        return
    start = shown = clock()
    done, count = 0.0, 0
    for item in items:
        yield item
        done, count = done + item.seconds, count + 1
        if (now := clock()) - shown >= every and done:
            shown = now
            speed = done / max(now - start, 1e-9)
            left = max(0.0, seconds - done) / speed
            say(
                f"{what}: {count} recordings, {done / 3600:.2f} of {seconds / 3600:.2f} h, {speed:.3g} × real time, "
                f"{format_time(left)} left"
            )


def count(
    items: Iterable[Item],
    total: int,
    what: str,
    unit: str,
    say: Callable[[str], object] = print,
    every: float = _EVERY,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """As :func:`follow`, of things that are counted: ``total`` of them, each a ``unit``."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, unit=unit)
        return
    start = shown = clock()
    for done, item in enumerate(items, 1):
        yield item
        if (now := clock()) - shown >= every:
            shown = now
            say(f"{what}: {done} of {total} {unit}s, {format_time((total - done) * (now - start) / done)} left")


def format_time(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _bar(items: Iterable[Done], seconds: float, what: str) -> Iterator[Done]:
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s of sound, {elapsed} + {remaining}"
    with tqdm(total=seconds, desc=what, bar_format=form) as bar:
        for item in items:
            yield item
            bar.update(min(item.seconds, max(0.0, seconds - bar.n)))
