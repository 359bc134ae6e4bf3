"""Linear layers whose products of a few rows are made in blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from speechdlm_ext.modules.linear import Linear


class Products(TorchDispatchMode):
    """The names of the matrix products, and how many there are in each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            self.found.append((name, len(out) if out.dim() == 3 else 1))
        return out


@pytest.fixture
def three_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 320), (3, 2, 320), (4, 2, 320), (64, 320), (65, 320), (0, 320), (5, 3, 1, 320)])
def test_it_is_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    layer, x = Linear(320, 510, bias), torch.randn(shape)
    expected = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    with torch.no_grad():
        found = layer(x)
    assert found.shape == expected.shape and torch.allclose(found.double(), expected, atol=1e-5)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, layer.weight.sum(0).expand_as(x), atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch without MKL multiplies in its own way")
def test_few_rows_are_multiplied_by_blocks_of_the_weights(three_threads: None) -> None:
    kinds: dict[tuple[int, int, int, torch.dtype], list[tuple[str, int]]] = {}
    for rows, width, out, dtype in (
        (2, 320, 510, torch.float32),  # of up to 12 blocks: 10
        (7, 320, 516, torch.float32),  # 12
        (2, 320, 511, torch.float32),  # 7
        (2, 320, 509, torch.float32),  # a prime
        (65, 320, 510, torch.float32),
        (2, 16, 510, torch.float32),
        (2, 320, 510, torch.bfloat16),
    ):
        layer, x = Linear(width, out).to(dtype), torch.randn(rows, width, dtype=dtype)
        with torch.no_grad(), Products() as products:
            layer(x)
        kinds[rows, width, out, dtype] = products.found
    assert list(kinds.values()) == [
        [("bmm", 10)], [("bmm", 12)], [("bmm", 7)], *[[("addmm", 1)]] * 4,
    ]  # fmt: skip
    with Products() as products:  # training
        Linear(320, 510)(torch.randn(2, 320))
    assert products.found == [("addmm", 1)]
