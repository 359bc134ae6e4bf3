"""Counting, on a CPU, operations, and where a GPU would have to finish its work before Python could go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique2"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# What reads a tensor's memory without an operation.
READING = {Tensor.tolist, Tensor.numpy, Tensor.cpu}


@contextmanager
def counted_syncs() -> Iterator[Counter[str]]:
    """Counts, by name, the operations and calls within that wait for the device."""
    found: Counter[str] = Counter()

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            if name in WAITING:
                found[name] += 1
            elif name in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
                found[f"{name} by a mask"] += 1
            return func(*args, **(kwargs or {}))

    class Calls(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in READING:
                found[func.__name__] += 1
            return func(*args, **(kwargs or {}))

    with Operations(), Calls():
        yield found


@contextmanager
def counted_work() -> Iterator[Counter[str]]:
    """Counts ``operations`` within, and the ``numbers`` that they give out."""
    found: Counter[str] = Counter()

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            found["operations"] += 1
            found["numbers"] += sum(one.numel() for one in tree_leaves(made) if isinstance(one, Tensor))
            return made

    with Operations():
        yield found
