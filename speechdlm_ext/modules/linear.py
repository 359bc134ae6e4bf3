"""Linear layers whose products of a few rows keep all threads of a processor busy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WEIGHTS_FIRST, _MOST_ROWS = 6, 64
LEAST_WEIGHTS = 1 << 16  # below, a product costs less than asking
_BLOCKS = 4  # of the weights, a thread
_MKL = torch.backends.mkl.is_available()


@torch.compiler.assume_constant_result
def _num_threads() -> int:
    return torch.get_num_threads()


class Linear(nn.Linear):
    """``nn.Linear`` that decodes fast on processors, where a step of a few rows takes as long as reading the weights.

    MKL multiplies a few rows in one thread, at a third of the memory's rate. Without gradients and in fp32, they are
    multiplied by blocks of the weights in a batched product, whose blocks the threads share; the weights come first
    where there are so few rows that this is faster (docs/performance.md). Elsewhere it is ``nn.Linear``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in_features)`` to ``(…, out_features)``."""
        rows = x.numel() // self.in_features
        blocks = self._blocks(x, rows)
        if blocks == 1:
            return F.linear(x, self.weight, self.bias)
        weight = self.weight.view(blocks, -1, self.in_features)
        if rows <= _WEIGHTS_FIRST:
            found = torch.bmm(weight, x.reshape(rows, -1).t().expand(blocks, -1, -1)).flatten(0, 1).t()
        else:
            found = torch.bmm(x.reshape(1, rows, -1).expand(blocks, -1, -1), weight.transpose(1, 2)).transpose(0, 1)
        found = found.reshape(*x.shape[:-1], self.out_features)
        return found if self.bias is None else found + self.bias

    def _blocks(self, x: Tensor, rows: int) -> int:
        """By how many blocks of the weights to multiply; 1 for all at once."""
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or not 1 <= rows <= _MOST_ROWS
            or x.device.type != "cpu"
            or not x.dtype == weight.dtype == torch.float32
            or weight.numel() < LEAST_WEIGHTS
            or torch.is_autocast_enabled("cpu")
            or not _MKL
        ):
            return 1
        most = min(_BLOCKS * _num_threads(), self.out_features)
        return next(count for count in range(most, 0, -1) if self.out_features % count == 0)
