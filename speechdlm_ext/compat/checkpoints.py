"""Reading checkpoints without running what is in them.

A checkpoint is a pickle, and a pickle is a program. Every file that a fairseq command opens is read by torch's
weights-only reader with the allow-list of :mod:`.allow_list`; a file that needs more is refused in one line.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any

from .refusal import refusal

TRUST_VARIABLE = "SPEECHDLM_TRUST_CHECKPOINTS"
_FALSE = ("", "0", "false", "no", "off")
_ASKED_FOR = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"unsupported GLOBAL (\S+) whose module"),
    re.compile(
        r"Trying to call reduce for unrecognized function (.+?)(?: which belongs to| Check the documentation|$)"
    ),
    re.compile(r"allowlisted via `add_safe_globals`,? but got (.+?)(?: Check the documentation|$)"),
)


_trusting: ContextVar[bool | None] = ContextVar("trusting", default=None)


def trusted() -> bool:
    """Whether the user has said that files may run code when they are loaded."""
    said = _trusting.get()
    return os.environ.get(TRUST_VARIABLE, "").strip().lower() not in _FALSE if said is None else said


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


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu", trust: bool | None = None) -> Any:
    """Read a file written by ``torch.save``: what was saved, mostly a dict.

    Args:
        path: the checkpoint.
        map_location: where tensors go, as for ``torch.load``.
        trust: True lets the file run code while it loads; None asks the environment variable
            SPEECHDLM_TRUST_CHECKPOINTS.

    Raises:
        InputError: there is no such file, it is not whole, or it asks for a class that is not on the allow-list.
    """
    if not os.path.isfile(path):
        raise refusal(f"{os.fspath(path)}: no such checkpoint")
    return load(path, map_location=map_location, trust=trust)


def load(
    file: str | os.PathLike[str] | IO[bytes], map_location: Any = None, trust: bool | None = None, **options: Any
) -> Any:
    """``torch.load`` with the allow-list; ``file`` is a path or an open file, ``options`` are torch's own."""
    import torch

    read = getattr(torch.load, "_speechdlm_original", torch.load)
    if trust is None:
        trust = trusted()
    if trust:
        return read(file, map_location=map_location, **{**options, "weights_only": False})

    from .allow_list import allowed_globals

    options = {name: value for name, value in options.items() if name not in ("weights_only", "pickle_module")}
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed_globals()):
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the refusal says it in one line
            return read(file, map_location=map_location, weights_only=True, **options)
    except Exception as error:  # a file that is no pickle, or a hostile one, can fail in every way there is
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place beyond the end of a cut file
            raise
        raise refusal(_explain(file, error)) from error


def _explain(file: Any, error: Exception) -> str:
    """One line: the file, what it asked for, and what can be done."""
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else getattr(file, "name", "the checkpoint")
    message = " ".join(str(error).split())
    for pattern in _ASKED_FOR:
        asked_for = pattern.search(message)
        if asked_for:
            return (
                f"{name}: refused, because loading it would use {_todays_name(asked_for[1])}, which can run code; "
                f"if you trust where the file comes from, set {TRUST_VARIABLE}=1 (in Python: trust=True)"
            )
    if isinstance(error, EOFError | OSError) or "central directory" in message:
        return f"{name}: is not a whole checkpoint (cut off while it was written or copied?): use another one"
    reason = message.split("WeightsUnpickler error:")[-1].split("Check the documentation")[0].strip()
    trust = f"; if you trust where it comes from, set {TRUST_VARIABLE}=1 (in Python: trust=True)"
    if isinstance(error, RuntimeError) and "weights_only" not in message:
        trust = ""
    return f"{name}: cannot be read as a checkpoint ({type(error).__name__}: {reason[:200]}){trust}"


def _todays_name(name: str) -> str:
    """torch writes pickles with the module names of Python 2; "commands.Popen" tells nobody anything."""
    module, dot, rest = name.rpartition(".")
    return IMPORT_MAPPING.get(module, module) + dot + rest
