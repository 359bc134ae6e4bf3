"""Runs commands one after the other: shows how far each is, keeps their output, and leaves none behind."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from speechdlm_ext.demo.steps import ENVIRONMENT, Stamps, Step
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import open_locked

_PR_SET_PDEATHSIG = 1
_SHOW_EVERY = 5.0  # seconds between two lines of progress where the output is no terminal


@contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Hold a lock file as long as the block, or any command started in it, runs.

    Yields:
        File descriptor of the lock, to be handed down to the commands.

    Raises:
        InputError: somebody else holds it, and does not let go within ten seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open_locked(path, wait=10)
    except InputError:
        message = f"{path.parent}: another demo is at work there: wait for it, or pass another --out"
        raise InputError(message) from None
    with file:
        yield file.fileno()


class Runner:
    """Runs steps, or finds them done.

    Args:
        stamps: what is done.
        logs: folder for each command's output.
        lock: descriptor that the commands inherit.
    """

    def __init__(self, stamps: Stamps, logs: Path, lock: int) -> None:
        self.stamps, self.logs, self.lock = stamps, logs, lock
        self.number = 0
        self.done: list[Step] = []

    def run(self, step: Step, progress: Callable[[str], str | None] | None = None) -> None:
        """Run a step unless it is done.

        Args:
            step: the step.
            progress: makes what is shown of a line of output; None for a line that is not worth it.

        Raises:
            InputError: the command failed; the message is its last line, or where its log is.
        """
        self.number += 1
        fingerprint = self.stamps.fingerprint(step)
        print(f"\n[{self.number}] {step.title}\n$ {step.shell_line()}", flush=True)
        if self.stamps.is_done(step, fingerprint):
            print(f"    done before ({self.stamps.read(step)['seconds']:.0f} s)", flush=True)
            self.done.append(step)
            return
        spent = self.stamps.begin(step, fingerprint)
        start = time.monotonic()
        self._execute(step, progress or _plain)
        seconds = spent + time.monotonic() - start
        self.stamps.write(step, fingerprint, "done", seconds)
        print(f"    {seconds:.0f} s", flush=True)
        self.done.append(step)

    def _execute(self, step: Step, progress: Callable[[str], str | None]) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{step.name}.log"
        with open(log, "ab") as file:
            file.write(f"$ {step.shell_line()}\n".encode())
            process = subprocess.Popen(
                list(step.command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"},
                pass_fds=(self.lock,),
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
            try:
                last = self._follow(process, file, progress)
                status = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
        if status:
            raise InputError(_failure(step, status, last, log))

    def _follow(self, process: subprocess.Popen[bytes], log: IO[bytes], progress: Callable[[str], str | None]) -> str:
        """Copy output to the log and show what is worth it; returns the last line that was not empty."""
        assert process.stdout is not None
        screen, last, rest = _Screen(), "", b""
        while chunk := os.read(process.stdout.fileno(), 65536):
            log.write(chunk)
            log.flush()
            *lines, rest = re.split(rb"(?<=[\r\n])", rest + chunk)
            for raw in lines:
                line = raw.decode(errors="replace").strip()
                if line and (text := progress(line)):
                    screen.show(text, lasting=progress is _plain and raw.endswith(b"\n"))
                last = line or last
        screen.clear()
        return rest.decode(errors="replace").strip() or last


class _Screen:
    """Lines that last, and one that is written over: where the output is no terminal, one every few seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.shown_at = 0.0
        self.open = False

    def show(self, text: str, lasting: bool) -> None:
        if lasting:
            self.clear()
            print(f"    {text}", flush=True)
        elif time.monotonic() - self.shown_at >= (0.1 if self.terminal else _SHOW_EVERY):
            self.shown_at = time.monotonic()
            if self.terminal:
                width = shutil.get_terminal_size().columns
                print(f"\r\033[K    {text[: max(20, width - 5)]}", end="", flush=True)
                self.open = True
            else:
                print(f"    {text}", flush=True)

    def clear(self) -> None:
        if self.open:
            print("\r\033[K", end="", flush=True)
            self.open = False


def _plain(line: str) -> str | None:
    """What our own commands print; not what the libraries that they use have to say."""
    return None if " | INFO | " in line or " | WARNING | " in line else line


def _failure(step: Step, status: int, last: str, log: Path) -> str:
    if status == 2 and ": error: " in last:
        return last.split(": error: ", 1)[1]
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"{step.title}: {Path(step.command[0]).name} {how} ({last[:200]}): all of its output is in {log}"


def _die_with_parent() -> None:
    """Runs in the child: when the demo is killed outright, its command must not go on and disturb the next start."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
