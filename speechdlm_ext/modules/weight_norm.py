"""Weight norm in checkpoints: a weight as its length and its direction, under the names of older and newer torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from speechdlm_ext.errors import InputError

_LENGTH, _DIRECTION = ".weight_g", ".weight_v"
# What torch calls them since 2.0.
_NEWER = {".parametrizations.weight.original0": _LENGTH, ".parametrizations.weight.original1": _DIRECTION}


def older_name(name: str) -> str:
    """``….weight_g`` and ``….weight_v`` for what newer versions of torch call these; other names as they are."""
    for newer, older in _NEWER.items():
        if name.endswith(newer):
            return name.removesuffix(newer) + older
    return name


def fold_weight_norm(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights without weight norm, in float32: ``v · g / |v|`` (Salimans and Kingma, 2016); others as they are.

    The norm is over the dimensions in which ``g`` has size 1.

    Args:
        weights: by either of the names.
        where: what they are from, for messages.

    Raises:
        InputError: one of the two is missing, or their sizes do not fit.
    """
    named = {older_name(name): tensor.float() for name, tensor in weights.items()}
    original = {older_name(name): name for name in weights}
    folded = {}
    for name, tensor in named.items():
        stem = name.removesuffix(_DIRECTION)
        if name.endswith(_LENGTH):
            if name.removesuffix(_LENGTH) + _DIRECTION not in named:
                raise InputError(f"{where} has {original[name]} without its {_DIRECTION.lstrip('.')}")
        elif stem == name:
            folded[name] = tensor
        elif stem + _LENGTH not in named:
            raise InputError(f"{where} has {original[name]} without {stem}{_LENGTH}")
        else:
            length = named[stem + _LENGTH]
            dims = [dim for dim, size in enumerate(length.shape) if size == 1]
            kept = length.dim() == tensor.dim() and all(
                size in (1, there) for size, there in zip(length.shape, tensor.shape, strict=True)
            )
            if not kept or not dims:
                raise InputError(f"{where}: {original[stem + _LENGTH]} and {original[name]} are of different sizes")
            folded[f"{stem}.weight"] = tensor * (length / torch.linalg.vector_norm(tensor, dim=dims, keepdim=True))
    return folded
