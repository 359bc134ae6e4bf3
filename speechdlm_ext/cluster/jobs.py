"""An array of jobs that do the shards of a command, or the cells of a grid, and what became of each."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError, one_line, optional_import
from speechdlm_ext.io.atomic import atomic_write

RECORD = "submission.json"
_RESTARTS = 1000  # of a task that is stopped at its time limit
_LINES = 4  # of a log that are shown of a task that failed
_END_OF_LOG = 20_000  # bytes


@dataclass
class Submission:
    """What was submitted, in ``submission.json``.

    Attributes:
        folder: of its logs.
        commands: of each task.
        resources: as submitit takes them.
        then: a command that runs when all tasks have succeeded.
        cwd: where they run.
        jobs: the last job of each task, as ``123_4``.
        merge: the job of ``then``.
    """

    folder: Path
    commands: list[list[str]]
    resources: dict[str, Any] = field(default_factory=dict)
    then: list[str] = field(default_factory=list)
    cwd: str = ""
    jobs: list[str] = field(default_factory=list)
    merge: str = ""

    @classmethod
    def load(cls, folder: Path) -> Submission:
        """Raises InputError where nothing was submitted in the folder."""
        try:
            known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            return cls(**{**known, "folder": folder})
        except FileNotFoundError:
            raise InputError(f"{folder} has no {RECORD}: expected the folder that submit has named") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"{folder / RECORD}: {one_line(error)}") from None

    def save(self) -> None:
        """Write the record."""
        with atomic_write(self.folder / RECORD) as file:
            json.dump({**dataclasses.asdict(self), "folder": str(self.folder)}, file, indent=1)

    def outcome(self, name: str) -> Path:
        """The file in which a task, or ``then``, leaves its status."""
        return self.folder / f"{name}.json"


@dataclass(frozen=True)
class Task:
    """A command in a job; submitit calls it, and queues it again when it was stopped at its time limit."""

    command: tuple[str, ...]
    outcome: str
    cwd: str

    def __call__(self) -> None:
        """Run the command; its status is kept beside the logs."""
        process = subprocess.Popen(self.command, cwd=self.cwd)
        signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(signal.SIGTERM))
        status = process.wait()
        with atomic_write(self.outcome) as file:
            json.dump({"status": status}, file)
        if status:
            raise RuntimeError(f"status {status} from {shlex.join(self.command)}")

    def checkpoint(self) -> Any:
        """What submitit queues when the time limit is near: the same, which continues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class TaskState:
    """Where a task stands.

    Attributes:
        name: its number, or ``then``.
        state: ``done``, ``failed``, ``running``, ``waiting``, or what else SLURM says.
        why: of one that failed, its status and the last lines of its log.
        log: the file.
    """

    name: str
    state: str
    why: str = ""
    log: Path | None = None


def submit(submission: Submission, tasks: Sequence[int]) -> None:
    """Queue these tasks as one array, and ``then`` for when all have succeeded.

    Raises:
        InputError: submitit is not installed, or SLURM refuses the job.
    """
    if not tasks:
        return
    after = [job for task, job in enumerate(submission.jobs) if task not in tasks and not _succeeded(submission, task)]
    for task in tasks:
        submission.outcome(str(task)).unlink(missing_ok=True)
    calls = [_task(submission, str(task), submission.commands[task]) for task in tasks]
    jobs = _queue(submission, calls, submission.resources)
    known = submission.jobs or [""] * len(submission.commands)
    for task, job in zip(tasks, jobs, strict=True):
        known[task] = job
    submission.jobs = known
    submission.save()
    if submission.then:
        if submission.merge:
            subprocess.run(["scancel", submission.merge], check=False, capture_output=True)
        submission.outcome("then").unlink(missing_ok=True)
        array = [jobs[0].partition("_")[0]]
        extra = {"dependency": "afterok:" + ":".join(array + after), "kill-on-invalid-dep": "yes"}
        plain = {
            name: value for name, value in submission.resources.items() if name in ("slurm_partition", "timeout_min")
        }
        call = _task(submission, "then", submission.then)
        (submission.merge,) = _queue(submission, [call], {**plain, "slurm_additional_parameters": extra})
        submission.save()


def states(submission: Submission) -> list[TaskState]:
    """Where each task, and ``then``, stands; asks SLURM's queue only, so that no accounting is needed."""
    names = [*map(str, range(len(submission.jobs))), *(["then"] if submission.merge else [])]
    jobs = [*submission.jobs, *([submission.merge] if submission.merge else [])]
    queued = _queue_states(jobs)
    return [_state(submission, name, job, queued.get(job)) for name, job in zip(names, jobs, strict=True)]


def _task(submission: Submission, name: str, command: Sequence[str]) -> Task:
    return Task(tuple(command), str(submission.outcome(name).resolve()), submission.cwd)


def _queue(submission: Submission, tasks: Sequence[Task], resources: Mapping[str, Any]) -> list[str]:
    with optional_import("submitit is not installed", "cluster"):
        import submitit
    try:
        executor = submitit.AutoExecutor(submission.folder, cluster="slurm", slurm_max_num_timeout=_RESTARTS)
        executor.update_parameters(stderr_to_stdout=True, **resources)
        return [str(job.job_id) for job in executor.map_array(run_task, tasks)]
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise InputError(f"SLURM takes no such job: {one_line(error)[-300:]}") from None


def run_task(task: Task) -> None:
    """Run a task."""
    task()


def _queue_states(jobs: Sequence[str]) -> dict[str, str]:
    """The states of those jobs that are still in the queue."""
    arrays = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--jobs", arrays, "--format", "%i %T %r"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise InputError("squeue: no such command; run this where SLURM's commands are") from None
    found = {}
    for (
        line
    ) in done.stdout.splitlines():  # of jobs that it has forgotten, squeue says nothing, or that they are invalid
        job, state, reason = line.split(maxsplit=2)
        found[job] = "DependencyNeverSatisfied" if reason == "DependencyNeverSatisfied" else state
    return found


def _succeeded(submission: Submission, task: int) -> bool:
    return _status(submission, str(task)) == 0


def _status(submission: Submission, name: str) -> int | None:
    try:
        return int(json.loads(submission.outcome(name).read_text(encoding="utf-8"))["status"])
    except (FileNotFoundError, ValueError):
        return None


def _state(submission: Submission, name: str, job: str, queued: str | None) -> TaskState:
    status = _status(submission, name)
    if status == 0:
        return TaskState(name, "done")
    log = max(submission.folder.glob(f"{job}_*_log.out"), key=os.path.getmtime, default=None)
    if queued in ("RUNNING", "COMPLETING", "CONFIGURING"):
        return TaskState(name, "running", log=log)
    if queued is not None:
        return TaskState(name, "waiting" if queued == "PENDING" else queued.lower(), log=log)
    if name == "then" and log is None:
        return TaskState(name, "not started", "tasks failed before it")
    how = "ended without a status: killed, or its node failed" if status is None else f"status {status}"
    return TaskState(name, "failed", "\n".join([how, *_last_lines(log)]), log)


def _last_lines(log: Path | None) -> list[str]:
    """The last lines that the command itself has written; submitit's own, and its traceback, are skipped."""
    if log is None:
        return ["no log: it has not started"]
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _END_OF_LOG))
        text = file.read().decode(errors="replace")
    text = text.partition("submitit ERROR")[0]
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("submitit ")]
    return lines[-_LINES:]


def new_submission(
    commands: Sequence[Sequence[str]], resources: Mapping[str, Any], then: Sequence[str], root: Path, name: str
) -> Submission:
    """A submission in a new folder ``<root>/<name>-<date>``; nothing is queued yet."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(100):
        folder = root / (f"{name}-{time.strftime('%y%m%d-%H%M%S')}" + (f"-{number}" if number else ""))
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return Submission(
            folder.resolve(), [_absolute(c) for c in commands], dict(resources), _absolute(then), os.getcwd()
        )
    raise InputError(f"{root}: no name for a folder is free")


def _absolute(command: Sequence[str]) -> list[str]:
    """The command with this interpreter in place of ``python``, and what is beside it by its path."""
    if not command:
        return []
    beside = Path(sys.executable).parent / command[0]
    first = sys.executable if command[0] in ("python", "python3") else str(beside) if beside.is_file() else command[0]
    return [first, *command[1:]]
