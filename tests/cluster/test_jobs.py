"""Arrays submitted, watched and done again, on a real SLURM."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.helpers.commands import CHECKOUT
from tests.helpers.slurm import Cluster

pytestmark = pytest.mark.commands


def control(cluster: Cluster, place: Path, *words: str, check: bool = True) -> str:
    return cluster.run(
        place / ".venv/bin/python",
        "-m",
        "speechdlm_ext.cluster",
        *words,
        cwd=place,
        check=check,
        PYTHONPATH=str(CHECKOUT),
    )


def until(cluster: Cluster, place: Path, done: str, seconds: float = 90) -> str:
    """The status, when it says so."""
    end = time.monotonic() + seconds
    while done not in (said := control(cluster, place, "status", check=False)):
        assert time.monotonic() < end, said
        time.sleep(1)
    return said


def test_failed_tasks_are_named_and_done_again_and_then_comes_the_merge(cluster: Cluster, place: Path) -> None:
    script = place / "work.sh"
    script.write_text(
        'echo task $2 >>done; [ ! -e $2 ] || { echo "no such recording" >&2; exit 3; }; touch ok-${2%/*}\n'
    )
    (place / "1").mkdir()
    (place / "1" / "3").touch()  # the file 1/3 makes the task of --shard 1/3 fail
    said = control(
        cluster, place, "submit", "--tasks", "3", "--then", "cp done merged", "--name", "work", "--", "sh", str(script)
    )
    assert "3 tasks: job" in said and "then, when all have succeeded: job" in said
    said = until(cluster, place, "2 done, 1 failed")
    assert "1 not started" in said or "1 waiting" in said or "1 cancelled" in said
    assert "task 1 failed: status 3" in said and "no such recording" in said and "_log.out" in said
    assert not (place / "merged").exists()
    os.remove(place / "1" / "3")
    assert "tasks 1: job" in control(cluster, place, "resubmit")
    until(cluster, place, "4 done")
    done = sorted((place / "merged").read_text().split())
    assert done == ["0/3", "1/3", "1/3", "2/3", "task", "task", "task", "task"]
    assert control(cluster, place, "resubmit") == "no task has failed\n"


def test_a_killed_task_is_failed_and_a_grid_has_a_job_for_each_cell(cluster: Cluster, place: Path) -> None:
    (place / "work.sh").write_text('echo "$@"; case "$1" in a=2) kill -9 $PPID; sleep 60;; esac\n')
    control(
        cluster, place, "submit", "--grid", "a=1,2", "b=3,4", "--output", "runs", "--", "sh", str(place / "work.sh")
    )
    said = until(cluster, place, "2 done, 2 failed")
    assert "task 2 failed: ended without a status: killed, or its node failed" in said
    assert "a=2 b=3 hydra.run.dir=runs/a_2-b_3" in said
