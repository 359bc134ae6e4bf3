"""Whether weights fit a model, said in one line."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str = "the checkpoint") -> None:
    """Raise :class:`InputError` unless ``weights`` are those of ``model``: same names, same shapes.

    Args:
        where: what to name in the error.
    """
    expected = model.state_dict()
    embedding = "decoder.embed_tokens.weight"
    if embedding in expected and embedding in weights and len(expected[embedding]) != len(weights[embedding]):
        raise InputError(
            f"{where} knows {len(weights[embedding])} units and symbols, the dictionaries that were read "
            f"{len(expected[embedding])}: the dict.<channel>.txt of its training are needed"
        )
    for name, tensor in expected.items():
        if name not in weights:
            raise InputError(
                f"{where} has no weights {name}: it is of another model, or was trained with other options"
            )
        if tensor.shape != weights[name].shape:
            raise InputError(
                f"{where}: {name} is {_shape(weights[name])}, {_shape(tensor)} is expected: it is of another model, or "
                "was trained with other options"
            )
    unknown = sorted(set(weights) - set(expected))
    if unknown:
        raise InputError(
            f"{where} has weights {unknown[0]}, which this model has not: it was trained with other options"
        )


def check_finite(model: nn.Module, where: str) -> None:
    """Raise :class:`InputError` where a weight is not a number, or infinite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{where}: weights {name} have values that are not numbers: its training diverged, or the file is "
                "damaged; use an earlier checkpoint"
            )


def _shape(tensor: Any) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"
