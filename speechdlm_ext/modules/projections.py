"""Products of one input with several weights as a single step for autograd, with the norm before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from speechdlm_ext.modules.rms_norm import RMSNorm, norm_gradients, normalise, row_scale

WIDE = (torch.float32, torch.float64)


def project_all(x: Tensor, weights: Sequence[Tensor], norm: RMSNorm) -> tuple[Tensor, ...]:
    """``norm(x) Wᵀ`` for each weight.

    On a CPU in fp32 nothing is kept for the backward pass but ``x`` and a number a row: what is normalised is made
    again. The gradients of all products arrive at ``x`` in one sum, which the products themselves add to.

    Args:
        x: ``(…, D)``.
        weights: ``(H, D)`` each.

    Returns:
        ``(…, H)`` for each weight.
    """
    if torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype in WIDE and not torch.is_autocast_enabled("cpu"):
        out: tuple[Tensor, ...] = _ProjectAll.apply(x, norm.weight, norm.eps, *weights)
        return out
    normed = norm(x)
    return tuple(F.linear(normed, weight) for weight in weights)


class _ProjectAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm_weight: Tensor, eps: float, *weights: Tensor) -> tuple[Tensor, ...]:
        scale = row_scale(x, eps)
        ctx.save_for_backward(x, norm_weight, scale, *weights)
        normed = normalise(x, scale, norm_weight)
        return tuple(F.linear(normed, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, scale, *weights = ctx.saved_tensors
        arrived = [gradient.flatten(0, -2) for gradient in gradients]
        sent = arrived[0] @ weights[0]
        for gradient, weight in zip(arrived[1:], weights[1:], strict=True):
            sent.addmm_(gradient, weight)
        normed = normalise(x, scale, norm_weight).flatten(0, -2)
        of_weights = [gradient.t() @ normed for gradient in arrived]
        of_x, of_norm = norm_gradients(sent.view_as(x), x, norm_weight, scale)
        return of_x, of_norm, None, *of_weights
