"""Errors that a user can mend, and how a command reports them: one line, and a status that is not zero."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from speechdlm_ext.compat.errors import (
    TRACEBACK_VARIABLE,
    InputError,
    ShortOfMemory,
    explanation,
    is_out_of_memory,
    is_set,
    one_line,
)

__all__ = [
    "InputError",
    "ShortOfMemory",
    "is_out_of_memory",
    "memory_for",
    "one_line",
    "optional_import",
    "run_command",
]

_STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def memory_for(what: str, fix: str) -> Iterator[None]:
    """Raise :class:`ShortOfMemory`, "not enough memory for <what>: <fix>", where the block runs out of it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ShortOfMemory(f"not enough memory for {what}: {fix}") from None


@contextmanager
def optional_import(what: str, extra: str, instead: str = "") -> Iterator[None]:
    """Raise an :class:`InputError` that names the extra to install, where the block cannot import a package.

    Args:
        what: cannot be had, as in "LoRA needs peft".
        extra: of this package, which brings it.
        instead: what else can be done, with the comma before it.
    """
    try:
        yield
    except ImportError:
        raise InputError(f"{what}: pip install 'speechdlm_ext[{extra}]'{instead}") from None


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's ``main`` and leave the interpreter with its status.

    Status 0 for success (``None`` or 0), 2 for an :class:`InputError`, a refusal of the operating system (no
    permission, disk full, …) or too little memory, 130 after Ctrl-C, 128 and the signal's number after those that
    clusters send before they end a job (SIGTERM, SIGUSR1, SIGUSR2), 141 when the reader of our output went away. Each
    of these prints one line at most on standard error. Any other exception is a fault of ours and keeps its traceback,
    and with SPEECHDLM_TRACEBACK=1 in the environment every exception does.
    """
    name = Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 gets escapes, not a traceback
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        for number in _STOPPING:
            signal.signal(number, _stop)
    try:
        status = main() or 0
        sys.stdout.flush()
    except Stopped as stopped:
        status = _say(name, f"stopped by {stopped.signal.name}: the same command continues", 128 + stopped.signal)
    except KeyboardInterrupt:
        status = _say(name, "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception as error:
        reason = explanation(error)
        if reason is None or is_set(TRACEBACK_VARIABLE):
            raise
        status = _say(name, f"error: {reason}", 2)
    sys.exit(status)


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end: what it holds is closed and half-written files are removed, as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(number)


def _stop(number: int, frame: object) -> NoReturn:
    for other in _STOPPING:  # once is enough: the end must not be disturbed. SIG_IGN would report one that is pending
        signal.signal(other, lambda number, frame: None)
    raise Stopped(number)


def _say(name: str, message: str, status: int) -> int:
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    return status
