"""Work side by side: every thread has its own, answers and errors arrive, and torch's threads are as before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from speechdlm_ext.modules.processors import side_by_side


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_thread_works_alone_and_without_gradients() -> None:
    together = threading.Barrier(2, timeout=300)  # passed by two threads at a time only
    weight = torch.ones(3, requires_grad=True)

    def work(item: int) -> tuple[int, int, bool]:
        together.wait()
        return item * item, torch.get_num_threads(), (weight * item).requires_grad

    found = dict(side_by_side(work, range(6), cpu=True))
    assert found == {item: (item * item, 1, False) for item in range(6)}
    assert torch.get_num_threads() == 2
    heard: list[int] = []
    another = threading.Thread(target=lambda: heard.append(torch.get_num_threads()))
    another.start()
    another.join()
    assert heard == [2]


def test_an_error_ends_the_work() -> None:
    done = []

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("item 1")
        time.sleep(0.01)
        done.append(item)

    with pytest.raises(ValueError, match="item 1"):
        list(side_by_side(work, range(2_000), cpu=True))
    assert len(done) < 1_999 and torch.get_num_threads() == 2


@pytest.mark.parametrize(("items", "cpu"), [(3, True), (9, False)])
def test_few_items_or_another_device_have_all_threads(items: int, cpu: bool) -> None:
    here = threading.get_ident()

    def work(item: int) -> tuple[bool, int, bool]:
        return threading.get_ident() == here, torch.get_num_threads(), torch.is_grad_enabled()

    answers = list(side_by_side(work, range(items), cpu))
    assert answers == [(item, (True, 2, False)) for item in range(items)]
    assert torch.is_grad_enabled()
