"""The two sides of a comparison as processes that take turns, each in its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from speechdlm_ext.errors import InputError

WORKER = Path(__file__).resolve().parent / "worker.py"


@dataclass(frozen=True)
class Settings:
    """What a user may ask of a measurement.

    Attributes:
        device: ``cpu`` or ``cuda``.
        rounds: measured rounds of each side; 0 for each part's own number.
        threads: of torch; 0 for its own choice.
    """

    device: str = "cpu"
    rounds: int = 0
    threads: int = 0

    def common(self) -> dict[str, Any]:
        """What every worker is told."""
        return {"device": self.device, "threads": self.threads}

    def check(self) -> None:
        """Raise :class:`InputError` where there is no such device."""
        if self.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise InputError("--device cuda: PyTorch finds no GPU here; leave it out to measure on the CPU")


class Side:
    """A worker process; see worker.py for its settings. Use it in a ``with`` statement.

    Args:
        name: who it is, for messages.
        python: the interpreter of its environment.
        settings: for the worker.
    """

    def __init__(self, name: str, python: str | Path, settings: dict[str, Any]) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        if python == sys.executable and "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        self._process = subprocess.Popen(
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self._write(json.dumps(settings))
        self.about = self._read()

    def round(self) -> dict[str, float]:
        """One more round of its work: what the worker measured."""
        self._write("go")
        return self._read()

    def rate(self, what: str) -> float:
        """One more round: how many a second."""
        measured = self.round()
        return measured[what] / measured["seconds"]

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _read says what happened

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        raise InputError(f"{self.name} ended with status {status}: {lines[-1] if lines else 'it said nothing'}")

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._log.close()


def ours(settings: dict[str, Any]) -> Side:
    """This code, in this environment."""
    return Side("ours", sys.executable, {**settings, "imports": ["speechdlm_ext.plugin"]})
