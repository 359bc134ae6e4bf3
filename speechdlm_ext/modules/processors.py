"""Independent pieces of work side by side on the processors of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@torch.no_grad()
def side_by_side(work: Callable[[Item], Answer], items: Sequence[Item], cpu: bool) -> Iterator[tuple[Item, Answer]]:
    """Do ``work`` on each item, without gradients.

    Torch cuts every operation into as many parts as there are threads, which wait for one another after each of them.
    Where there are pieces enough for all threads, on a CPU each thread has pieces of its own instead.

    Args:
        work: it may be called from several threads at a time.
        items: those that take longest had better come first.
        cpu: whether the work is torch's on a CPU.

    Yields:
        Items with what came of them, in the order in which they were done.
    """
    threads = torch.get_num_threads()
    if not cpu or threads == 1 or len(items) < 2 * threads:
        for item in items:
            yield item, work(item)
        return
    # A thread's own number of threads; the one that it starts with is common to all, and set back at the end.
    pool = ThreadPoolExecutor(threads, "scoring", initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = {pool.submit(torch.no_grad()(work), item): item for item in items}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
