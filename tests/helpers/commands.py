"""Real commands as subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
RunCommand: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


def run_command(
    arguments: Sequence[str | os.PathLike[str]],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
    check: bool = True,
    input: str | None = None,
) -> subprocess.CompletedProcess[str]:
    first, *rest = (os.fspath(argument) for argument in arguments)
    beside = Path(sys.executable).parent / first
    if first == "python":
        first = sys.executable
    elif os.sep not in first and beside.is_file():
        first = str(beside)
    done = subprocess.run(
        [first, *rest],
        cwd=cwd,
        env=environment(env),
        timeout=timeout,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    return checked(done, check)


def environment(env: Mapping[str, str] | None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", **(env or {})}


def checked(done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
    if check and done.returncode != 0:
        tail = (done.stdout + done.stderr)[-4000:]
        pytest.fail(f"status {done.returncode} from {' '.join(map(str, done.args))}\n{tail}")
    return done
