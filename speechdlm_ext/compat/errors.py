"""Errors that a user can mend, and which exceptions are told in one line. ``speechdlm_ext.errors`` gives them to all.

They stand here, below all other rooms, because the repairs run in programs that never import the package itself.
"""

from __future__ import annotations

import errno
import os

TRACEBACK_VARIABLE = "SPEECHDLM_TRACEBACK"
_NO = ("", "0", "false", "no", "off")

# What the disk refuses, which torch reports as an error of its own.
_DISK = frozenset((errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE))
# What the operating system refuses and a traceback would not explain any better.
_SYSTEM = _DISK | frozenset(
    (
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOLCK,
        errno.ENOSYS,
        errno.ENOTDIR,
        errno.ENOTSUP,
        errno.EPERM,
    )
)
# What allocators say: torch's of the CPU, CUDA's, and those of cuBLAS and cuDNN.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class InputError(Exception):
    """Something in the input or the options is wrong, and the message says how to fix it.

    The message is one line: what, where, what was found, what was expected, and the fix, for example
    "a.wav has 1 channel, 2 are needed: join the two sides of the call into one stereo file".
    """


class ShortOfMemory(InputError):
    """There is too little memory: no fault of the current item, which is therefore not skipped."""


def is_set(variable: str) -> bool:
    """Whether an environment variable that switches something on is set, and not to 0, no, false or off."""
    return os.environ.get(variable, "").strip().lower() not in _NO


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the CPU's allocator or a GPU's had no memory to give (``torch.OutOfMemoryError``, …)."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


def disk_error(error: BaseException | None) -> OSError | None:
    """The refusal of the disk (full, read-only, …) in the chain of exceptions that led to this one, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _DISK:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def one_line(error: BaseException) -> str:
    """The message of ``error`` without line breaks."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__


def explanation(error: BaseException) -> str | None:
    """The line that a command prints in place of a traceback, or None where only the traceback helps.

    That is for an :class:`InputError`, a refusal of the operating system (also where torch makes a ``RuntimeError`` of
    it), and too little memory.
    """
    if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in _SYSTEM):
        return one_line(error)
    if isinstance(error, OSError | RuntimeError):
        refused = disk_error(error)
        if refused is not None:
            return one_line(refused)
    if is_out_of_memory(error):
        return f"not enough memory ({one_line(error)[:200]}): smaller batches need less"
    return None
