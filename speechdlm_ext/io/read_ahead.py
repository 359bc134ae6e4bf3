"""Recordings read and resampled ahead of their use, by threads, in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from queue import Empty, Full, Queue
from threading import Event, Semaphore, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from speechdlm_ext.io.recordings import recording_blocks

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

_BLOCKS_AHEAD = 4  # of each recording
_PATIENCE = 0.2  # seconds between two looks at whether anybody still waits
_LONGEST_END = 5.0  # seconds to wait at the end for what is being read


class Reading:
    """The sound of one recording, in blocks (C, n), each once.

    Args:
        row: of a manifest; a ``speed`` in it is applied.
        sample_rate: expected, in Hz.

    Attributes:
        row: as given.
        samples: how many (of each channel) have been taken so far.
    """

    def __init__(self, row: Mapping[str, Any], sample_rate: int) -> None:
        self.row = row
        self.samples = 0
        self._rate = target_rate(row, sample_rate)
        self._queue: Queue[torch.Tensor | BaseException | None] = Queue(_BLOCKS_AHEAD)
        self._closed = Event()

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Raises :class:`InputError` and OSError where the file does."""
        while (block := self._queue.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            self.samples += block.shape[1]
            yield block

    def close(self) -> None:
        """Let go of what has not been read."""
        self._closed.set()

    def read(self) -> None:
        """Fill it; runs in a thread until all is read or nobody waits for it any more."""
        try:
            for block in recording_blocks(self.row, self._rate):
                if not self._put(block):
                    return
            self._put(None)
        except BaseException as error:  # told to whoever waits for the sound
            self._put(error)

    def _put(self, item: torch.Tensor | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
                return True
            except Full:
                pass
        return False


def read_ahead(rows: Iterable[Mapping[str, Any]], sample_rate: int, workers: int = 2) -> Generator[Reading, None, None]:
    """The recordings of a manifest in order; those that come next are read in the meantime.

    A reading is at its end when the next one is asked for. Close the iterator when it is not used up.

    Args:
        rows: of a manifest.
        sample_rate: expected, in Hz.
        workers: threads that read.
    """
    waiting: Queue[Reading | None] = Queue()
    threads = [Thread(target=_work, args=(waiting,), daemon=True, name=f"reader-{n}") for n in range(max(1, workers))]
    for thread in threads:
        thread.start()
    ahead: deque[Reading] = deque()
    try:
        rest = iter(rows)
        for _ in range(2 * len(threads)):
            _begin(rest, sample_rate, ahead, waiting)
        while ahead:
            reading = ahead.popleft()
            try:
                yield reading
            finally:
                reading.close()
            _begin(rest, sample_rate, ahead, waiting)
    finally:
        for reading in ahead:
            reading.close()
        try:
            while True:
                waiting.get_nowait()
        except Empty:
            pass
        for _ in threads:
            waiting.put(None)
        end = time.monotonic() + _LONGEST_END
        for thread in threads:  # what they decode must not outlive the interpreter; what hangs must not hold it up
            thread.join(max(0.0, end - time.monotonic()))


def target_rate(row: Mapping[str, Any], sample_rate: int) -> int:
    """The rate in Hz to resample a row's sound to, whose samples, taken for ``sample_rate``'s, have its ``speed``."""
    return round(sample_rate / row.get("speed", 1))


def _begin(
    rows: Iterator[Mapping[str, Any]], sample_rate: int, ahead: deque[Reading], waiting: Queue[Reading | None]
) -> None:
    row = next(rows, None)
    if row is not None:
        ahead.append(Reading(row, sample_rate))
        waiting.put(ahead[-1])


def _work(waiting: Queue[Reading | None]) -> None:
    while (reading := waiting.get()) is not None:
        reading.read()


def ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same items, made by a thread, one ahead: it makes the next one while the last that was taken is in use.

    Close it when it is not used up.
    """
    queue: Queue[tuple[Item | None, BaseException | None] | None] = Queue(1)
    taken, closed = Semaphore(0), Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            with closing(items):
                for item in items:
                    queue.put((item, None))
                    taken.acquire()
                    if closed.is_set():
                        break
        except BaseException as raised:  # told to whoever takes the items
            error = raised
        queue.put((None, error) if error else None)

    thread = Thread(target=work, daemon=True, name="ahead")
    thread.start()
    try:
        while (found := queue.get()) is not None:
            item, error = found
            if error is not None:
                raise error
            taken.release()
            yield item  # type: ignore[misc]  # None only beside an error
    finally:
        closed.set()
        taken.release()
        while thread.is_alive():  # what it has in hand must not outlive the interpreter
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.02)
