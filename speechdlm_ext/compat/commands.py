"""fairseq's commands end with one line, not a traceback, when the fault is in what they were given."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from .imports import after_import
from .refusal import errors_module
from .repair import Repair, always

_IN_A_CHILD = re.compile(r"^(?:\S*\.)?InputError: (.+)$", re.MULTILINE)


def command_name() -> str | None:
    """ "fairseq-train" if that is what runs, as a command, as ``python -m`` or by its path; None for other programs."""
    program = Path(sys.argv[0] if sys.argv else "")
    if program.name.startswith("fairseq-"):
        return program.name.removesuffix(".exe")
    if program.parent.name == "fairseq_cli":
        return "fairseq-" + program.stem.replace("_", "-")
    return None


def _reason(error: BaseException) -> str | None:
    """What to say in one line instead of a traceback; None if the traceback is what is needed."""
    errors = errors_module()
    from_child = _IN_A_CHILD.findall(str(error)) if _is_from_child(error) else []
    if from_child:
        return str(from_child[-1])
    if isinstance(error, errors.InputError):
        return str(errors.one_line(error))
    if isinstance(error, OSError):
        # Without a number it is fairseq's own: "Dataset not found: …", "Model file not found: …".
        known = error.errno is None or error.errno in errors._SYSTEM_ERRORS
        return str(errors.one_line(error)) if known else None
    if isinstance(error, ImportError) and "lease install" in str(error):
        return str(errors.one_line(error))
    if type(error) is Exception or (isinstance(error, AssertionError) and _raised_by_command(error)):
        # How fairseq speaks to its users: "Could not infer language pair, please provide it explicitly".
        return str(errors.one_line(error)) if str(error) else None
    if type(error).__name__ == "MissingMandatoryValue":  # of OmegaConf: no task, model or criterion for hydra
        return str(error).splitlines()[0]
    return None


def _is_from_child(error: BaseException) -> bool:
    """Whether the message is the traceback of another process: one that torch spawned, or a worker that loads data."""
    return type(error).__name__ == "ProcessRaisedException" or "in DataLoader worker process" in str(error)


def _raised_by_command(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).parent.name == "fairseq_cli"


def _end(name: str, said: str, status: int) -> NoReturn:
    sys.stdout.flush()
    print(f"{name}: {said}", file=sys.stderr, flush=True)
    raise SystemExit(status)


def _end_in_one_line(error: BaseException) -> None:
    """Leave the interpreter if this error of one of fairseq's commands can be told in one line; else return."""
    name = command_name()
    if name is None:
        return
    if isinstance(error, KeyboardInterrupt):
        _end(name, "interrupted", 130)
    said = _reason(error)
    if said is not None:
        _end(name, f"error: {said}", 2)


def _watch_for_errors() -> None:
    previous = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _end_in_one_line(error)
        previous(kind, error, trace)

    sys.excepthook = excepthook


def _let_hydra_pass(module: ModuleType) -> None:
    original: Callable[[Callable[[], Any]], Any] = module.run_and_report

    def run_and_report(func: Callable[[], Any]) -> Any:
        def guarded() -> Any:
            try:
                return func()
            except Exception as error:
                _end_in_one_line(error)
                raise

        return original(guarded)

    module.run_and_report = run_and_report  # type: ignore[attr-defined]


REPAIRS = [
    Repair(
        name="one-line-errors",
        package="fairseq",
        fault="tracebacks for a missing file, a refused checkpoint, a full disk, Ctrl-C",
        versions="all",
        needed=always,
        apply=_watch_for_errors,
    ),
    Repair(
        name="one-line-errors-hydra",
        package="hydra-core",
        fault="hydra prints its own traceback for every error of fairseq-hydra-train",
        versions="all",
        needed=always,
        apply=lambda: after_import("hydra._internal.utils", _let_hydra_pass),
    ),
]
