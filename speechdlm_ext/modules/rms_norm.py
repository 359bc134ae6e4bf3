"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) · weight`` over the last dimension; the division in fp32 whatever the model is in."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """``(…, D)`` to the same."""
        precise = x if x.dtype == torch.float64 else x.float()
        return F.rms_norm(precise, self.weight.shape, None, self.eps).type_as(x) * self.weight
