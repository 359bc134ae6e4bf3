"""Commands as they can be pasted: programs of this interpreter, scripts of this checkout, paths from here."""

from __future__ import annotations

import sys
from pathlib import Path

from speechdlm_ext.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(__file__).resolve().parents[1]


def shown(path: Path) -> str:
    """A path as short as it can be pasted from here: relative to the current folder if it lies in it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def python(script: str) -> list[str]:
    """Interpreter and script of the checkout."""
    return [shown(Path(sys.executable)), shown(ROOT / script)]


def module(name: str) -> list[str]:
    """Interpreter and module of the package."""
    return [shown(Path(sys.executable)), "-m", name]


def fairseq(command: str) -> str:
    """Path of one of fairseq's commands: the one of this interpreter, whatever PATH says.

    Raises:
        InputError: it is not installed there.
    """
    path = Path(sys.executable).parent / command
    if not path.is_file():
        raise InputError(f"{path}: not there; install the package into this environment: pip install .")
    return shown(path)
