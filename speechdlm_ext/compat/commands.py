"""fairseq's commands end with one line, not a traceback, when the fault is in what they were given."""

from __future__ import annotations

import dis
import io
import re
import site
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from .errors import TRACEBACK_VARIABLE, InputError, explanation, is_set, one_line
from .repair import Repair, replace

user_folders: set[str] = set()  # those that --user-dir has named

_IN_A_CHILD = re.compile(r"^(?:\S*\.)?(?:InputError: |\w*Error: (?=\[Errno ))(.+)$", re.MULTILINE)
# How fairseq says in a sentence what its user is to do: "Dataset not found: …", "Please install …", "Criterion does not
# match; please reset the optimizer (--reset-optimizer)".
_SENTENCES = (AssertionError, FloatingPointError, ImportError, NotImplementedError, OSError, RuntimeError, ValueError)


def command_name() -> str | None:
    """ "fairseq-train" if that is what runs, as a command, as ``python -m`` or by its path; None for other programs."""
    program = Path(sys.argv[0] if sys.argv else "")
    if program.name.startswith("fairseq-"):
        return program.name.removesuffix(".exe")
    if program.parent.name == "fairseq_cli":
        return "fairseq-" + program.stem.replace("_", "-")
    return None


def end_in_one_line(error: BaseException) -> None:
    """Leave the interpreter if this error of one of fairseq's commands can be told in one line; else return.

    What a user's own code raises (a --user-dir, or any code that is neither installed nor part of this package) is not
    cut short, but for an :class:`InputError`; with SPEECHDLM_TRACEBACK=1 nothing is.
    """
    name = command_name()
    if name is None:
        return
    if isinstance(error, KeyboardInterrupt):
        _end(name, "interrupted", 130)
    said = None if is_set(TRACEBACK_VARIABLE) else _reason(error)
    if said is not None:
        _end(name, f"error: {said}", 2)


def _end(name: str, said: str, status: int) -> NoReturn:
    sys.stdout.flush()
    # While processes work together, torch holds back what an excepthook prints, and would lose it at the end; fairseq
    # takes print away from processes other than the first.
    stream = sys.__stderr__ if type(sys.stderr) is io.StringIO and sys.__stderr__ is not None else sys.stderr
    stream.write(f"{name}: {said}\n")
    stream.flush()
    raise SystemExit(status)


def _reason(error: BaseException) -> str | None:
    """What to say in one line instead of a traceback; None if the traceback is what is needed."""
    if type(error).__name__ == "ProcessRaisedException" or "in DataLoader worker process" in str(error):
        from_child = _IN_A_CHILD.findall(str(error))  # the message is the traceback of another process
        return str(from_child[-1]) if from_child else None
    if not isinstance(error, InputError) and _is_of_a_user(error.__traceback__):
        return None
    if type(error).__name__ == "MissingMandatoryValue":  # of OmegaConf: no task, model or criterion for hydra
        return str(error).splitlines()[0]
    said = explanation(error)
    if said is not None or isinstance(error, OSError) and error.errno is not None:
        return said
    is_sentence = bool(str(error)) and (type(error) is Exception or isinstance(error, _SENTENCES))
    return one_line(error) if is_sentence and _is_raised_by_fairseq(error.__traceback__) else None


def _frames(trace: TracebackType | None) -> list[TracebackType]:
    """From where the error was raised outwards."""
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames[::-1]


def _is_fairseqs(trace: TracebackType) -> bool:
    module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    return module in ("fairseq", "fairseq_cli") or Path(trace.tb_frame.f_code.co_filename).parent.name == "fairseq_cli"


def _is_raised_by_fairseq(trace: TracebackType | None) -> bool:
    """Whether a statement ``raise`` or ``assert`` of fairseq's raised it, and not what fairseq called."""
    for last in _frames(trace)[:1]:
        raised = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
        return raised and _is_fairseqs(last)
    return False


def _is_of_a_user(trace: TracebackType | None) -> bool:
    """Whether the innermost code that is not of an installed library is neither fairseq's nor ours."""
    ours = Path(__file__).resolve().parents[1]
    installed = {*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), *site.getsitepackages()}
    installed.add(site.getusersitepackages())
    for frame in _frames(trace):
        file = frame.tb_frame.f_code.co_filename
        folders = Path(file).parents
        if _is_fairseqs(frame) or ours in folders:
            return False
        within = set(map(str, folders))
        library = file.startswith("<") or bool(within & installed)
        if within & user_folders or (not library and frame.tb_frame.f_globals.get("__name__") != "__main__"):
            return True
    return False


def _watch_for_errors() -> None:
    previous = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        end_in_one_line(error)
        previous(kind, error, trace)

    sys.excepthook = excepthook


def _let_hydra_pass(module: Any) -> None:
    original: Callable[[Callable[[], Any]], Any] = module.run_and_report

    @replace(module, "run_and_report")
    def run_and_report(func: Callable[[], Any]) -> Any:
        def guarded() -> Any:
            try:
                return func()
            except Exception as error:
                end_in_one_line(error)
                raise

        return original(guarded)


REPAIRS = [
    Repair(
        name="one-line-errors",
        package="fairseq",
        fault="tracebacks for a missing file, a refused checkpoint, a full disk, Ctrl-C",
        at_once=_watch_for_errors,
    ),
    Repair(
        name="one-line-errors-hydra",
        package="hydra-core",
        fault="hydra prints its own traceback for every error of fairseq-hydra-train",
        changes={"hydra._internal.utils": _let_hydra_pass},
    ),
]
