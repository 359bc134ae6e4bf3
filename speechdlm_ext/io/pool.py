"""Work on many items in processes: results as they are ready, bounded memory, and one line when a process is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import TypeVar

from speechdlm_ext.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4  # items submitted for each worker


def available_cores() -> int:
    """Cores that this process may use: in a job with 8 of 128 cores, 8."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_server(modules: Sequence[str]) -> None:
    """Have the server that forks worker processes load modules while this process is still getting ready itself."""
    if "forkserver" in multiprocessing.get_all_start_methods() and available_cores() > 1:
        forkserver.set_forkserver_preload(list(modules))
        forkserver.ensure_running()


def run_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_workers: int,
    fresh: bool = False,
    ordered: bool = False,
    preload: Sequence[str] = (),
) -> Generator[Result, None, None]:
    """Apply a function to each item, in processes with one thread each.

    Args:
        function: of a module; it and the items can be pickled.
        items: read only as far ahead as the processes need.
        num_workers: processes at a time; with 1, and not ``fresh``, all runs in this process.
        fresh: each item in a process of its own, for libraries that carry state from one call to the next.
        ordered: results in the order of their items, and not in the order in which they are ready.
        preload: modules that every process needs, besides that of the function.

    Yields:
        Results.

    Raises:
        InputError: a process was killed, for example because memory ran out.
    """
    if num_workers <= 1 and not fresh:
        yield from map(function, items)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        loaded = [
            name for name in ("torch", "scipy.signal") if name in sys.modules
        ]  # by what was tried in this process
        context.set_forkserver_preload([function.__module__, *loaded, *preload])

    def run_alone(item: Item) -> Result:
        with ProcessPoolExecutor(1, context, _prepare) as process:
            return process.submit(function, item).result()

    workers = max(1, num_workers)
    pool: Executor = ThreadPoolExecutor(workers) if fresh else ProcessPoolExecutor(workers, context, _prepare)
    try:
        yield from _results(pool, run_alone if fresh else function, items, workers, ordered)
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, perhaps because memory ran out: run again with a smaller --num-workers"
        ) from None


def run_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int = 0
) -> Generator[Result, None, None]:
    """As :func:`run_in_processes`, in threads: for work that waits for disks, or for libraries that let others run.

    Args:
        function, items: as there.
        num_workers: threads; 0 for one for each core.
    """
    workers = num_workers or available_cores()
    yield from _results(ThreadPoolExecutor(workers), function, items, workers)


def _results(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], workers: int, ordered: bool = False
) -> Iterator[Result]:
    pending: list[Future[Result]] = []

    def finished() -> Iterator[Result]:
        done = pending[:1] if ordered else list(wait(pending, return_when=FIRST_COMPLETED).done)
        pending[:] = [future for future in pending if future not in done]
        yield from (future.result() for future in done)

    with pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= _AHEAD * workers:
                    yield from finished()
            while pending:
                yield from finished()
        finally:
            for future in pending:
                future.cancel()


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes use all cores already, and sums keep their order
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
