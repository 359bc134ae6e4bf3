"""Steps of a chain of commands: what each needs and makes, and stamps that say what is done."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechdlm_ext.io.atomic import atomic_write

# The number of threads is part of the result (sums of floats depend on their order), so it is the same everywhere.
# Threads that wait leave the core to others: on a busy machine they would otherwise lose far more than their share.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: file name of its stamp and log.
        title: what it does, for people.
        command: program and arguments.
        makes: files and folders that are its own; nothing else writes there.
        seconds: about how long it takes on 2 cores, for the plan.
        resumes: the command goes on by itself where it was stopped. Else what it left is cleared away first.
        depends: further things that the result depends on (plain JSON values), beside the command and earlier steps.
    """

    name: str
    title: str
    command: Sequence[str]
    makes: Sequence[Path]
    seconds: float
    resumes: bool = False
    depends: dict[str, Any] = field(default_factory=dict)

    def shell_line(self) -> str:
        """The command as it can be pasted into a shell."""
        settings = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return " ".join([*settings, *(shlex.quote(word) for word in self.command)])


class Stamps:
    """Which steps are done, in a folder of small files; each is written atomically, after its step's results.

    A step counts as done if its stamp carries the fingerprint of its command, of what it depends on and of all steps
    before it, and if what it makes is there as it was left.
    """

    def __init__(self, folder: Path, anchor: Path) -> None:
        self.folder, self.anchor = folder, anchor
        self._chain = ""

    def fingerprint(self, step: Step) -> str:
        """Digest of the step and of all steps before it (those that were asked for earlier)."""
        command = [word.replace(str(self.anchor), "OUT") for word in step.command[1:]]
        content = [self._chain, step.name, Path(step.command[0]).name, command, ENVIRONMENT, step.depends]
        self._chain = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
        return self._chain

    def _path(self, step: Step) -> Path:
        return self.folder / f"{step.name}.json"

    def read(self, step: Step) -> dict[str, Any]:
        """The stamp as it is, or nothing."""
        try:
            stamp = json.loads(self._path(step).read_text(encoding="utf-8"))
            return stamp if isinstance(stamp, dict) else {}
        except (OSError, ValueError):
            return {}

    def is_done(self, step: Step, fingerprint: str) -> bool:
        """Whether the step's results are there, made in just this way."""
        stamp = self.read(step)
        return (
            stamp.get("state") == "done"
            and stamp.get("fingerprint") == fingerprint
            and stamp.get("contents") == _contents(step.makes)
        )

    def begin(self, step: Step, fingerprint: str) -> float:
        """Make ready for a run; clears away what another kind of run, or a command that cannot resume, has left.

        Returns:
            Seconds that earlier runs of the same step took before they were stopped.
        """
        stamp = self.read(step)
        same = stamp.get("fingerprint") == fingerprint and stamp.get("state") == "begun"
        if not (same and step.resumes):
            for path in step.makes:
                _remove(path)
        spent = float(stamp.get("seconds", 0.0)) if same else 0.0
        self.write(step, fingerprint, "begun", spent)
        return spent

    def write(self, step: Step, fingerprint: str, state: str, seconds: float) -> None:
        """Write the stamp; ``seconds`` spent on the step so far."""
        stamp: dict[str, Any] = {"state": state, "fingerprint": fingerprint, "seconds": round(seconds, 2)}
        stamp |= {"title": step.title, "command": step.shell_line()}
        if state == "done":
            stamp["contents"] = _contents(step.makes)
        with atomic_write(self._path(step)) as file:
            json.dump(stamp, file, indent=1, ensure_ascii=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _contents(paths: Sequence[Path]) -> dict[str, int]:
    """Size of every file, by path within its step; hidden ones and logs of the training curves are left out."""
    sizes = {}
    for path in paths:
        for folder, _, names in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
            for name in names:
                file = Path(folder) / name
                if not name.startswith(".") and "tensorboard" not in file.parts and file.is_file():
                    sizes[str(file.relative_to(path.parent))] = file.stat().st_size
    return dict(sorted(sizes.items()))
