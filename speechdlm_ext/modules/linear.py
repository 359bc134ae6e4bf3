"""Linear layers whose products of a few rows keep all threads of a processor busy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows of which compiled steps make sums instead of products (generation/windows.py).
SUMMED_ROWS = 4
_MOST_ROWS = 64
_MKL = torch.backends.mkl.is_available()
_LEAST_WEIGHTS = 1 << 16  # below, a product costs less than asking


@torch.compiler.assume_constant_result
def _num_threads() -> int:
    return torch.get_num_threads()


class Linear(nn.Linear):
    """``nn.Linear`` that decodes fast on processors: a step of a few rows takes as long as reading the weights.

    MKL multiplies a few rows in one thread. Without gradients, in fp32, they are multiplied by one block of the weights
    a thread, in a batched product. Elsewhere it is ``nn.Linear``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in_features)`` to ``(…, out_features)``."""
        blocks = self._blocks(x)
        if blocks == 1:
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(1, -1, self.in_features).expand(blocks, -1, -1)
        weight = self.weight.view(blocks, -1, self.in_features).transpose(1, 2)
        if self.bias is None:
            found = torch.bmm(rows, weight)
        else:
            found = torch.baddbmm(self.bias.view(blocks, 1, -1), rows, weight)
        return found.transpose(0, 1).reshape(*x.shape[:-1], self.out_features)

    def _blocks(self, x: Tensor) -> int:
        """By how many blocks of the weights to multiply; 1 for all at once."""
        weight, rows = self.weight, x.numel() // self.in_features
        if (
            torch.is_grad_enabled()
            or not 1 <= rows <= _MOST_ROWS
            or x.device.type != "cpu"
            or not x.dtype == weight.dtype == torch.float32
            or weight.numel() < _LEAST_WEIGHTS
            or torch.is_autocast_enabled("cpu")
            or not _MKL
            or torch.compiler.is_compiling()
            and rows <= SUMMED_ROWS
        ):
            return 1
        threads = min(_num_threads(), self.out_features)
        return next(count for count in range(threads, 0, -1) if self.out_features % count == 0)
