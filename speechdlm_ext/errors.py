"""Errors that a user can mend, and how a command reports them: one line, and a status that is not zero."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

# What the operating system refuses and a traceback would not explain any better.
_SYSTEM_ERRORS = frozenset(
    (
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
        errno.EISDIR,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    )
)


class InputError(Exception):
    """Something in the input or the options is wrong, and the message says how to mend it.

    The message is one line: what, where, what was found, what was wanted, and the fix, for example
    "a.wav has 1 channel, 2 are needed: join the two sides of the call into one stereo file".
    """


class ShortOfMemory(InputError):
    """There is too little memory: no fault of the item in hand, which is therefore not left out for it."""


# What allocators say: torch's of the CPU, CUDA's, and those of cuBLAS and cuDNN.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the CPU's allocator or a GPU's had no memory to give (``torch.OutOfMemoryError``, …)."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


@contextmanager
def memory_for(what: str, fix: str) -> Iterator[None]:
    """Raise :class:`ShortOfMemory`, "not enough memory for <what>: <fix>", where the block runs out of it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ShortOfMemory(f"not enough memory for {what}: {fix}") from None


def one_line(error: BaseException) -> str:
    """The message of ``error`` without line breaks."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's ``main`` and leave the interpreter with its status.

    Status 0 for success (``None`` or 0), 2 for an :class:`InputError`, a refusal of the operating system (no
    permission, disk full, …) or too little memory, 130 after Ctrl-C, 141 when the reader of our output went away. Each
    of these prints one line at most on standard error. Any other exception is a fault of ours and keeps its traceback.
    """
    name = Path(sys.argv[0]).name
    try:
        status = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _say(name, "interrupted", 130)
    except InputError as error:
        status = _say(name, f"error: {one_line(error)}", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        if error.errno not in _SYSTEM_ERRORS:
            raise
        status = _say(name, f"error: {one_line(error)}", 2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status = _say(name, f"error: not enough memory ({one_line(error)[:200]}): smaller batches need less", 2)
    sys.exit(status)


def _say(name: str, message: str, status: int) -> int:
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    return status
