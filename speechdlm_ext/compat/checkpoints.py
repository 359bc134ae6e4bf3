"""``torch.load`` without running what is in the file.

A checkpoint is a pickle, and a pickle is a program. Every file that a fairseq command opens is read by torch's
weights-only reader with the allow-list of :mod:`.allow_list`; a file that needs more is refused in one line. The
default of torch, which has been that reader since 2.6, gets the same list, so that other programs can read fairseq's
checkpoints, too.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any

from .errors import InputError, is_set
from .repair import Repair, replace

TRUST_VARIABLE = "SPEECHDLM_TRUST_CHECKPOINTS"
_ADVICE = f"if you trust where the file comes from, set {TRUST_VARIABLE}=1 (in Python: trust=True)"
_ASKED_FOR = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"unsupported GLOBAL (\S+) whose module"),
    re.compile(
        r"Trying to call reduce for unrecognized function (.+?)(?: which belongs to| Check the documentation|$)"
    ),
    re.compile(r"allowlisted via `add_safe_globals`,? but got (.+?)(?: Check the documentation|$)"),
)
_CALLERS = ("fairseq", "fairseq_cli")
_trusting: ContextVar[bool | None] = ContextVar("trusting", default=None)


def trusted() -> bool:
    """Whether the user has said that files may run code when they are loaded."""
    said = _trusting.get()
    return is_set(TRUST_VARIABLE) if said is None else said


@contextmanager
def trust_checkpoints(trust: bool | None = True) -> Iterator[None]:
    """Within this context, whatever fairseq loads may run code (True), may not (False), or as the environment says.

    >>> with trust_checkpoints():
    ...     model = SpeechDLM.from_pretrained("folder", "model.pt")  # doctest: +SKIP
    """
    token = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(token)


def load_checkpoint(
    path: str | os.PathLike[str] | IO[bytes], map_location: Any = "cpu", trust: bool | None = None
) -> Any:
    """Read a file written by ``torch.save``: what was saved, mostly a dict.

    Args:
        path: the checkpoint, or an open file, whose ``name`` messages give.
        map_location: where tensors go, as for ``torch.load``.
        trust: True lets the file run code while it loads; None asks the environment variable
            SPEECHDLM_TRUST_CHECKPOINTS.

    Raises:
        InputError: there is no such file, it is not whole, or it asks for a class that is not on the allow-list.
    """
    if isinstance(path, str | os.PathLike) and not os.path.isfile(path):
        raise InputError(f"{os.fspath(path)}: no such checkpoint")
    return _load_safely(path, map_location, trusted() if trust is None else trust)


def _load_safely(
    file: str | os.PathLike[str] | IO[bytes], map_location: Any = None, trust: bool = False, **options: Any
) -> Any:
    """``torch.load`` with the allow-list; ``file`` is a path or an open file, ``options`` are torch's own."""
    import torch

    read = getattr(torch.load, "__wrapped__", torch.load)
    if trust:
        return read(file, map_location, weights_only=False, **options)
    try:
        with warnings.catch_warnings(), _allow_list():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the refusal says it in one line
            return read(file, map_location, weights_only=True, **options)
    except Exception as error:  # a file that is no pickle, or a hostile one, can fail in every way there is
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place beyond the end of a cut file
            raise
        raise InputError(_explain(file, error)) from error


def _allow_list() -> Any:
    import torch

    from .allow_list import allowed_globals

    return torch.serialization.safe_globals(allowed_globals())


def _explain(file: Any, error: Exception) -> str:
    """One line: the file, what it is or asked for, and what can be done."""
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else getattr(file, "name", "the checkpoint")
    message = " ".join(str(error).split())
    for pattern in _ASKED_FOR:
        asked_for = pattern.search(message)
        if asked_for:
            return (
                f"{name}: refused, because loading it would use {_todays_name(asked_for[1])}, which can run code; "
                + _ADVICE
            )
    start = _start_of(file)
    other = what_it_is(start)
    if other is not None:
        return f"{name}: {other}"
    if isinstance(error, EOFError | OSError) or "central directory" in message:
        return f"{name}: is not a whole checkpoint (cut off while it was written or copied?): use another one"
    reason = message.split("WeightsUnpickler error:")[-1].split("Check the documentation")[0].strip()
    pickled = start[:2] == b"PK" or start[:1] == b"\x80"
    can_be_trusted = pickled and (not isinstance(error, RuntimeError) or "weights_only" in message)
    advice = f"; {_ADVICE}" if can_be_trusted else ""
    return f"{name}: cannot be read as a checkpoint ({type(error).__name__}: {reason[:200]}){advice}"


def _start_of(file: Any) -> bytes:
    """The first kilobyte of a path or an open file, as far as it can be read again."""
    try:
        if isinstance(file, str | os.PathLike):
            with open(file, "rb") as opened:
                return opened.read(1024)
        file.seek(0)
        return bytes(file.read(1024))
    except Exception:
        return b""


def what_it_is(start: bytes) -> str | None:
    """What a file with this beginning is, if it is something that people have by mistake where weights should be."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return (
            "is a pointer of Git LFS, not the file that it stands for: run `git lfs pull`, or download the file itself"
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return "is a web page: the address gave a page (an error, a login?); download the file itself"
    if start[8:9] == b"{" and start[5:8] == b"\0\0\0":  # the length of the header, 8 bytes, and JSON
        return "is a safetensors file, which holds weights alone; a checkpoint written by torch.save is expected"
    if start[:4] == b"GGUF":
        return "is a GGUF file; a checkpoint written by torch.save is expected"
    return None


def _todays_name(name: str) -> str:
    """torch writes pickles with the module names of Python 2; "commands.Popen" tells nobody anything."""
    module, dot, rest = name.rpartition(".")
    return IMPORT_MAPPING.get(module, module) + dot + rest


def _load_with_allow_list(module: Any) -> None:
    original = module.load

    @replace(module, "load")
    def load(
        f: Any, map_location: Any = None, pickle_module: Any = None, *, weights_only: bool | None = None, **options: Any
    ) -> Any:
        caller = str(sys._getframe(1).f_globals.get("__name__", ""))
        if caller.partition(".")[0] in _CALLERS:  # neither weights_only=False nor a pickle module is a reason to trust
            return _load_safely(f, map_location, trusted(), **options)
        if weights_only is not None or pickle_module is not None:
            return original(f, map_location, pickle_module, weights_only=weights_only, **options)
        with _allow_list():
            return original(f, map_location, **options)


REPAIRS = [
    Repair(
        name="checkpoint-loading",
        package="torch",
        fault="UnpicklingError: Weights only load failed, for fairseq's own checkpoints; and, where that is switched "
        "off, checkpoints that run code when they are loaded",
        changes={"torch": _load_with_allow_list},
        security=True,
    ),
]
