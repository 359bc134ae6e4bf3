"""Work in processes: every result, bounded reading ahead, fresh processes, and one line when a process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.pool import available_cores, run_in_processes
from tests.helpers.commands import CHECKOUT, environment


def square(number: int) -> int:
    return number * number


def process_id(_: int) -> int:
    return os.getpid()


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize(("num_workers", "fresh"), ((1, False), (2, False), (1, True), (2, True)))
def test_every_result(num_workers: int, fresh: bool) -> None:
    assert sorted(run_in_processes(square, range(6), num_workers, fresh)) == [n * n for n in range(6)]


def slow_first(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0)
    return number


def test_results_in_the_order_of_their_items() -> None:
    assert list(run_in_processes(slow_first, range(20), 2, ordered=True)) == list(range(20))


def test_items_are_read_only_a_little_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = run_in_processes(square, items(), 2)
    next(results)
    assert len(taken) < 30
    results.close()


def test_fresh_processes_are_not_shared() -> None:
    assert len(set(run_in_processes(process_id, range(4), 2, fresh=True))) == 4
    assert set(run_in_processes(process_id, range(4), 1)) == {os.getpid()}


@pytest.mark.parametrize("fresh", (False, True))
def test_a_killed_process_is_one_line(fresh: bool) -> None:
    with pytest.raises(InputError, match="--num-workers"):
        list(run_in_processes(die, range(6), 2, fresh))


def test_processes_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import itertools\n"
        "from tests.io.test_pool import process_id\n"
        "from speechdlm_ext.io.pool import run_in_processes\n"
        "for found in run_in_processes(process_id, itertools.count(), 2): print(found, flush=True)\n"
    )
    words, place = [sys.executable, "-c", code], environment(None)
    with subprocess.Popen(words, cwd=CHECKOUT, env=place, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(worker, 0)
            time.sleep(0.05)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cores_are_those_that_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
