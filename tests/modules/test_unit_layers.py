"""The layers of the unit transformer whose backward passes are written by hand, against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speechdlm_ext.modules.gated_linear import gated_linear
from speechdlm_ext.modules.packed_attention import packed_attention
from speechdlm_ext.modules.projections import project_all
from speechdlm_ext.modules.rms_norm import RMSNorm
from speechdlm_ext.modules.rotary import Rotation
from speechdlm_ext.modules.rotary_layer import GatedFeedForward, RotaryLayer


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def plain_gate(gate: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    return (gate / (1 + (-gate).exp()) * hidden) @ weight.t()


def norm_of(weight: Tensor) -> RMSNorm:
    layer = RMSNorm(weight.numel(), 1e-6)
    del layer.weight
    layer.weight = weight  # a tensor of the graph instead of the layer's own
    return layer


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return norm_of(weight)(x)


def projections(x: Tensor, scale: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.cat(project_all(x, [one, other], norm_of(scale)), -1)


def plain_projections(x: Tensor, scale: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.einsum("...d,hd->...h", plain_norm(x, scale), torch.cat([one, other]))


def given(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return packed_attention(q, k, v, [3, 1, 2])


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    visible = torch.block_diag(*[torch.ones(n, n).tril() for n in (3, 1, 2)]).bool()
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.size(-1) ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


FUNCTIONS: list[tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = [
    (norm, plain_norm, [(3, 4, 6), (6,)]),
    (projections, plain_projections, [(3, 4, 6), (6,), (5, 6), (2, 6)]),
    (gated_linear, plain_gate, [(3, 4, 5), (3, 4, 5), (7, 5)]),
    (attention, plain_attention, [(6, 2, 4)] * 3),
]


@pytest.mark.parametrize(("ours", "plain", "shapes"), FUNCTIONS)
def test_gradients_are_those_of_differences_and_of_the_formula(
    ours: Callable[..., Tensor], plain: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    inputs = given(*shapes)
    assert torch.autograd.gradcheck(ours, inputs)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        low = given(*shapes, dtype=dtype)
        found = ours(*low)
        wanted = plain(*inputs)
        assert found.dtype == dtype and torch.equal(found, ours(*[tensor.detach() for tensor in low]))
        with torch.no_grad():
            assert torch.allclose(ours(*low).float(), found.float(), rtol=tolerance)
        weight = torch.randn_like(wanted)
        exact = torch.autograd.grad((wanted * weight).sum(), inputs)
        gradients = torch.autograd.grad((found * weight.to(dtype)).sum(), low)
        for one, other in zip([found, *gradients], [wanted, *exact], strict=True):
            assert one.dtype == dtype
            assert float((one.detach().double() - other.detach()).norm() / other.detach().norm()) < tolerance


def test_weights_that_are_not_trained_change_no_other_gradient() -> None:
    for ours, _, shapes in FUNCTIONS:
        free, frozen = given(*shapes), given(*shapes)
        frozen[-1].requires_grad_(False)
        ours(*free).square().sum().backward()
        ours(*frozen).square().sum().backward()
        assert frozen[-1].grad is None
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(free[:-1], frozen[:-1], strict=True))


def test_autocast_trains_weights_in_fp32() -> None:
    block, x, before = GatedFeedForward(16, 32), torch.randn(9, 16), RMSNorm(16, 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x, before)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    found = [parameter.grad.clone() for parameter in block.parameters()]
    block.zero_grad()
    block(x, before).square().sum().backward()
    for one, other in zip(found, [parameter.grad for parameter in block.parameters()], strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.05


def test_a_layer_keeps_no_more_for_the_backward_pass_than_its_products_need() -> None:
    """Inputs of the residual branches, but not normalised; attention, random numbers of dropout, gate and hidden."""
    dim, hidden, places = 32, 128, 50
    layer = RotaryLayer(dim, hidden, 2, 2, 16, 1e-6, dropout=0.1).train()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    turn = Rotation(torch.arange(places), 16, 1e4)
    x = torch.randn(places, dim, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x, turn, lambda q, k, v: q * k * v)  # keeps q, k, v and q · k
    weights = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    numbers = sum(size for place, size in kept.items() if place not in weights) / 4 / places
    assert 2 * hidden + 5 * dim < numbers <= 2 * hidden + 9 * dim
    out.sum().backward()
    assert x.grad is not None
