"""Tensors that the backward pass needs and that cost less to make again than to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def made_again(tensor: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """What is computed in this context keeps no ``tensor`` for its backward pass, which calls ``make`` instead.

    Args:
        tensor: contiguous, and alive to the end of the context. Contiguous views of all of it count as it.
        make: makes it again, of values that do not change until the backward pass.
    """
    place, kind = tensor.data_ptr(), (tensor.numel(), tensor.dtype, tensor.device)

    def pack(kept: Tensor) -> Tensor | torch.Size:
        same = kept.data_ptr() == place and (kept.numel(), kept.dtype, kept.device) == kind and kept.is_contiguous()
        return kept.shape if same else kept

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return make().view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
