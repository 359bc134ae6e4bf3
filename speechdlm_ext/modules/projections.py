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


def project_all(x: Tensor, weights: Sequence[Tensor], norm: RMSNorm | None = None) -> tuple[Tensor, ...]:
    """``x Wᵀ``, or ``norm(x) Wᵀ``, for each weight.

    On a CPU in fp32 nothing is kept for the backward pass but ``x`` and a number a row: what is normalised is made
    again. The gradients of all products arrive at ``x`` in one sum, which the products themselves add to.

    Args:
        x: ``(…, D)``.
        weights: ``(H, D)`` each.

    Returns:
        ``(…, H)`` for each weight.
    """
    if torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype in WIDE and not torch.is_autocast_enabled("cpu"):
        scaled = () if norm is None else (norm.weight,)
        out: tuple[Tensor, ...] = _Project.apply(x, 0.0 if norm is None else norm.eps, *scaled, *weights)
        return out
    normed = x if norm is None else norm(x)
    return tuple(F.linear(normed, weight) for weight in weights)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.normed = weights[0].dim() == 1
        if ctx.normed:
            scale = row_scale(x, eps)
            ctx.save_for_backward(x, *weights, scale)
            x, weights = normalise(x, scale, weights[0]), weights[1:]
        else:
            ctx.save_for_backward(x, *weights)
        return tuple(F.linear(x, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        normed = x
        if ctx.normed:
            norm_weight, *weights, scale = weights
            normed = normalise(x, scale, norm_weight)
        arrived = [gradient.flatten(0, -2) for gradient in gradients]
        sent = arrived[0] @ weights[0]
        for gradient, weight in zip(arrived[1:], weights[1:], strict=True):
            sent.addmm_(gradient, weight)
        sent = sent.view_as(x)
        flat = normed.flatten(0, -2)
        of_weights = [gradient.t() @ flat for gradient in arrived]
        if not ctx.normed:
            return sent, None, *of_weights
        of_x, of_norm = norm_gradients(sent, x, norm_weight, scale)
        return of_x, None, of_norm, *of_weights
