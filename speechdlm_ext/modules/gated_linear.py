"""The second half of SwiGLU (Shazeer 2020), which keeps nothing for the backward pass but what goes into it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def gated_linear(gate: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    """``(silu(gate) · hidden) weightᵀ``.

    Autograd would keep ``gate``, ``hidden``, ``silu(gate)`` and the product, four of the widest tensors of a layer. The
    last two are made again here in the backward pass, which takes two passes over them and no matrix product.

    Args:
        gate, hidden: ``(…, H)``.
        weight: ``(D, H)``.

    Returns:
        ``(…, D)``.
    """
    if torch.is_grad_enabled():
        out: Tensor = _GatedLinear.apply(gate, hidden, weight)
        return out
    return F.linear(F.silu(gate).mul_(hidden), weight)


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, hidden, weight)
        return F.linear(F.silu(gate).mul_(hidden), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, hidden, weight = ctx.saved_tensors
        # With autocast the weights are in fp32 and all the rest in half precision.
        gradient = gradient.to(gate.dtype)
        inner = gradient @ weight.to(gate.dtype)
        if gate.device.type == "cpu" and gate.dtype in (torch.float32, torch.float64):
            # With s = sigmoid(g), silu is g·s and its slope s + g·s·(1 - s). Torch's own loops for silu and its
            # gradient take two to three times as long with two threads.
            share = gate.sigmoid()
            opened = gate * share
            slope = torch.lerp(opened, gate.new_ones(()), share, out=share)
            of_gate = slope.mul_(hidden).mul_(inner)
            of_hidden = inner.mul_(opened)
        else:
            opened = F.silu(gate)
            of_hidden = inner * opened
            of_gate = torch.ops.aten.silu_backward(inner.mul_(hidden), gate)
        product = opened.mul_(hidden)
        of_weight = gradient.flatten(0, -2).t() @ product.flatten(0, -2)
        return of_gate, of_hidden, of_weight.to(weight.dtype)
