"""Linear layers joined and arranged for multiplying few rows again and again, as decoding does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear:
    """Several linear layers over one input as one, their outputs side by side.

    On a CPU the weights are copied into oneDNN's own order once. With two rows (two channels) a step is bound by
    reading the weights, and torch's ``linear`` reads them at about half the speed. The copy does not follow later
    changes of the weights.

    Args:
        layers: linear layers with one input dimension.
        rows: about how many rows there will be.
        relu: whether a ReLU follows.
    """

    def __init__(self, layers: Sequence[nn.Linear], rows: int, relu: bool = False) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
            for layer in layers
        ]
        self.weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.bias = biases[0] if len(biases) == 1 else torch.cat(biases)
        self.relu = relu
        self.packed = _can_pack(self.weight)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), rows)

    def __call__(self, x: Tensor) -> Tensor:
        """``(rows, D)`` to ``(rows, sum of the layers' outputs)``."""
        if self.packed:
            kind = "relu" if self.relu else "none"
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, kind, [], "")
            return out
        out = F.linear(x, self.weight, self.bias)
        return F.relu_(out) if self.relu else out


def _can_pack(weight: Tensor) -> bool:
    """Whether oneDNN multiplies with such weights here; these operators are the ones that torch.compile emits."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
