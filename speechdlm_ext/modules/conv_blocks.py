"""Blocks of one-dimensional convolutions: QuartzNet, Jasper, Citrinet, MatchboxNet and MarbleNet are made of them.

Names of weights are NeMo's. Every convolution first sets the padding of shorter rows to zero, so that a row alone gives
what it gives in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import frame_mask
from speechdlm_ext.neural_types import (
    AcousticEncodedRepresentation,
    LengthsType,
    NeuralType,
    SpectrogramType,
    typecheck,
)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True), "hardtanh": nn.Hardtanh, "selu": nn.SELU, "silu": nn.SiLU,
    "swish": nn.SiLU,
}  # fmt: skip


class Rows(NamedTuple):
    """Which frames of a batch are valid.

    Attributes:
        lengths: valid frames of each row (B,).
        valid: False where a frame is padding (B, 1, T). Multiplied: masked_fill takes seven times as long on a CPU.
    """

    lengths: Tensor
    valid: Tensor

    @classmethod
    def of(cls, lengths: Tensor, frames: int) -> Rows:
        """Of rows of ``lengths`` (B,) in a batch of so many frames."""
        return cls(lengths, frame_mask(lengths, frames)[:, None])


class MaskedConv(nn.Module):
    """A convolution without bias, "same" padding, over frames whose padding is set to zero first."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        self.stride, self.span = stride, dilation * (kernel - 1) - 2 * padding

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames of the output for so many of the input."""
        return (lengths - self.span - 1) // self.stride + 1

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
        """(B, C, T) to (B, C', T'), with the valid frames of the output."""
        y: Tensor = self.conv(x * rows.valid)
        if self.stride == 1 and not self.span:
            return y, rows
        return y, Rows.of(self.output_lengths(rows.lengths), y.shape[2])


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that is computed from the mean over the valid frames (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
        )

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
        """(B, C, T), zero at padding."""
        x = x * rows.valid
        mean = x.sum(2, dtype=torch.float32) / rows.lengths.clamp(min=1)[:, None]
        return x * self.fc(mean.to(x.dtype)).sigmoid()[:, :, None], rows


class Projection(nn.ModuleList):
    """Convolution and batch normalization of a residual connection."""

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, C, T) to (B, C', T')."""
        y: Tensor = self[1](self[0](x, rows)[0])
        return y


class ConvBlock(nn.Module):
    """``repeat`` times convolution, batch normalization, activation and dropout, with residual connections around all.

    Args:
        inputs: channels of the input.
        options: of the block, an entry of the list ``jasper`` in NeMo's configurations.
        panes: channels of all earlier inputs that reach the residual connection (Jasper's dense residual).
        activation: of the model.

    Raises:
        InputError: an option is missing, unknown, or not supported.
    """

    def __init__(self, inputs: int, options: Mapping[str, Any], panes: Sequence[int], activation: str) -> None:
        super().__init__()
        known = {**_OPTIONAL, **options}
        _check(known)
        width, repeat, stride = (_first(known[name]) for name in ("filters", "repeat", "stride"))
        kernel = _odd(_first(known["kernel"]), float(known["kernel_size_factor"]))
        dilation, separable = _first(known["dilation"]), known["separable"]
        dropout = float(known["dropout"])
        layers: list[nn.Module] = []
        channels = inputs
        for number in range(repeat):
            last = number == repeat - 1
            step = 1 if known["stride_last"] and not last else stride
            if separable:
                layers += [
                    MaskedConv(channels, channels, kernel, step, dilation, channels),
                    MaskedConv(channels, width),
                ]
            else:
                layers.append(MaskedConv(channels, width, kernel, step, dilation))
            layers.append(_norm(width))
            if not last:
                layers += [ACTIVATIONS[activation](), nn.Dropout(dropout)]
            channels = width
        if known["se"]:
            layers.append(SqueezeExcite(width, int(known["se_reduction_ratio"])))
        self.mconv = nn.ModuleList(layers)
        self.dense = bool(known["residual"] and known["residual_dense"])
        self.res: nn.ModuleList | None = None
        if known["residual"]:
            through = stride if known["residual_mode"] == "stride_add" else 1
            sources = panes if self.dense else [inputs]
            self.res = nn.ModuleList(
                Projection([MaskedConv(channels, width, stride=through), _norm(width)]) for channels in sources
            )
        self.largest = known["residual_mode"] == "max"
        self.mout = nn.Sequential(ACTIVATIONS[activation](), nn.Dropout(dropout))

    def forward(self, inputs: list[Tensor], rows: Rows) -> tuple[list[Tensor], Rows]:
        """The last of the inputs (B, C, T) to (B, C', T'); the earlier ones are for dense residual connections."""
        x, after = inputs[-1], rows
        for layer in self.mconv:
            if isinstance(layer, MaskedConv | SqueezeExcite):
                x, after = layer(x, after)
            else:
                x = layer(x)
        for source, projection in zip(inputs, self.res or (), strict=False):
            y = projection(source, rows)
            x = torch.maximum(x, y) if self.largest else x + y
        x = self.mout(x)
        return ([*inputs, x] if self.dense else [x]), after


class ConvEncoder(nn.Module):
    """A stack of blocks.

    Args:
        config: the section ``encoder`` of a NeMo configuration: ``feat_in``, ``activation``, ``jasper`` (the blocks).

    Attributes:
        feat_in, dim: channels of the input and of the output.
        stride: input frames per output frame.

    Raises:
        InputError: an option is missing, unknown, or not supported.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        options: dict[str, Any] = {**config, **(config.get("params") or {})}  # before 1.0 there was a level more
        for name in ("_target_", "cls", "params", "init_mode"):
            options.pop(name, None)
        for name, only in _FIXED.items():
            if (found := options.pop(name, only)) != only:
                raise InputError(f"encoder: {name} {found} is not supported, {only} is expected")
        activation, blocks = options.pop("activation", "relu"), options.pop("jasper", None)
        residual_mode = options.pop("residual_mode", "add")
        self.feat_in = self.dim = int(options.pop("feat_in", 64))
        self.stride = 1
        if options:
            raise InputError(f"encoder: option {next(iter(options))} is unknown")
        if activation not in ACTIVATIONS or not isinstance(blocks, Sequence) or not blocks:
            raise InputError(f"encoder: activation {activation}, a list of blocks (jasper); one of each is expected")
        layers, panes = [], []
        for block in blocks:
            if not isinstance(block, Mapping):
                raise InputError(f"encoder: a block is {block!r}, expected its options by name")
            if block.get("residual_dense"):
                panes.append(self.dim)
            layers.append(ConvBlock(self.dim, {"residual_mode": residual_mode, **block}, panes, str(activation)))
            self.dim = int(block["filters"])
            last = block.get("stride_last", False)
            self.stride *= _first(block["stride"]) ** (1 if last else int(block["repeat"]))
        self.encoder = nn.ModuleList(layers)
        self.apply(initialize)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames of the output for so many of the input."""
        for block in self.encoder:
            for layer in block.mconv:  # type: ignore[union-attr]
                if isinstance(layer, MaskedConv):
                    lengths = layer.output_lengths(lengths)
        return lengths

    @typecheck(
        {"features": NeuralType(("B", "D", "T"), SpectrogramType()), "lengths": NeuralType(("B",), LengthsType())},
        {
            "encoded": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType()),
        },
        positional=True,
    )
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D, T) with valid frames (B,) to (B, C, T'), not masked, and its valid frames (B,)."""
        outputs, rows = [features], Rows.of(lengths, features.shape[2])
        for block in self.encoder:
            outputs, rows = block(outputs, rows)
        return outputs[-1], rows.lengths


def initialize(module: nn.Module) -> None:
    """Xavier's uniform weights, zero bias."""
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _norm(width: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(width, eps=1e-3, momentum=0.1)


def _odd(kernel: int, factor: float) -> int:
    """A kernel's length times a factor, odd."""
    return max(int(kernel * factor), 1) | 1


def _first(value: Any) -> int:
    """``[5]`` or 5 as a number."""
    if isinstance(value, Sequence) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise InputError(f"encoder: {value!r} in a block, a number from 1 up is expected")
    return value


_LARGEST = 1 << 16  # number in a block
_FIXED: dict[str, Any] = {
    "conv_mask": True, "normalization_mode": "batch", "frame_splicing": 1, "norm_groups": -1, "quantize": False,
}  # fmt: skip
_NEEDED = ("filters", "repeat", "kernel", "stride", "dilation", "dropout", "residual")
_OPTIONAL: dict[str, Any] = {
    "separable": False, "residual_mode": "add", "residual_dense": False, "se": False, "se_reduction_ratio": 8,
    "kernel_size_factor": 1.0, "stride_last": False,
}  # fmt: skip
_FIXED_IN_BLOCK: dict[str, Any] = {
    "groups": 1, "heads": -1, "future_context": -1, "se_context_size": -1, "se_interpolation_mode": "nearest",
}  # fmt: skip


def _check(options: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` for what a block does not know."""
    for name in _NEEDED:
        if name not in options:
            raise InputError(f"encoder: a block has no {name}")
    for name, value in options.items():
        if name not in _NEEDED and name not in _OPTIONAL and _FIXED_IN_BLOCK.get(name) != value:
            raise InputError(f"encoder: a block has {name} {value}, which is not supported")
    if options["residual_mode"] not in ("add", "max", "stride_add"):
        raise InputError(f"encoder: residual_mode {options['residual_mode']}; expected add, max or stride_add")
    if _first(options["stride"]) > 1 and _first(options["dilation"]) > 1:
        raise InputError("encoder: a block has a stride and a dilation above 1; one of them must be 1")
