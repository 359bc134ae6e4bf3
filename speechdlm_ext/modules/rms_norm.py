"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) · weight`` over the last dimension; the division in fp32 whatever the model is in.

    On a GPU it is torch's fused kernel. On a CPU, where torch goes over the data several times and keeps what it has on
    the way, ``x`` and one number a row are kept for the backward pass.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """``(…, D)`` to the same."""
        if x.device.type != "cpu":
            return F.rms_norm(_precise(x), self.weight.shape, None, self.eps).type_as(x) * self.weight
        if not torch.is_grad_enabled():
            return normalise(x, row_scale(x, self.eps), self.weight)
        out: Tensor = _Normalise.apply(x, self.weight, self.eps)
        return out


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = row_scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return normalise(x, scale, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        return *norm_gradients(gradient, x, weight, scale), None


def norm_gradients(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """What arrives at ``x`` and at the weight of an RMSNorm; ``scale`` is what :func:`row_scale` made of ``x``."""
    precise, size = _precise(x), x.size(-1)
    gradient, exact = gradient.to(precise.dtype), weight.to(precise.dtype)
    products = (gradient * precise).view(-1, size)
    of_weight = scale.flatten() @ products
    # With n = s·x and s = (mean(x²) + eps)^(-1/2), what arrives at n, a = g·w, goes on as s·a - s·n·mean(a·n).
    share = (products @ exact).view(scale.shape).mul_(scale.pow(3) / -size)
    of_x = (gradient * exact).mul_(scale).addcmul_(precise, share)
    return of_x.type_as(x), of_weight.type_as(weight)


def row_scale(x: Tensor, eps: float) -> Tensor:
    """``1 / sqrt(mean(x²) + eps)``, ``(…, 1)``, in fp32 or fp64."""
    squares = torch.linalg.vector_norm(_precise(x), dim=-1, keepdim=True).square_()
    return squares.div_(x.size(-1)).add_(eps).rsqrt_()


def normalise(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    normed = (_precise(x) * scale).type_as(x)
    return normed.mul_(weight) if normed.dtype == weight.dtype else normed * weight


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
