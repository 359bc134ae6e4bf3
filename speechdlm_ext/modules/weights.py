"""Weights from safetensors files, and whether they fit a model, said in one line."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError, one_line


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file; raises :class:`InputError` where it is missing or damaged."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file: not the whole folder of a saved model")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read, cut off while it was written or copied? ({one_line(error)})"
        ) from None


_OTHER = "it is of another model, or was trained with other options"


def check_weights(
    model: nn.Module | Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    where: str = "the checkpoint",
    hint: str = _OTHER,
    rename: Callable[[str], str] = str,
) -> None:
    """Raise :class:`InputError` unless ``weights`` are those of ``model``: same names, same shapes.

    Args:
        model: a module, or its weights by the names that are expected.
        where: what to name in the error.
        hint: what may be the reason.
        rename: from the model's names to those that a message shows.
    """
    expected = model.state_dict() if isinstance(model, nn.Module) else model
    embedding = "decoder.embed_tokens.weight"
    if embedding in expected and embedding in weights and len(expected[embedding]) != len(weights[embedding]):
        raise InputError(
            f"{where} knows {len(weights[embedding])} units and symbols, the dictionaries that were read "
            f"{len(expected[embedding])}: the dict.<channel>.txt of its training are needed"
        )
    missing = sorted(rename(name) for name in expected if name not in weights)
    if missing:
        raise InputError(f"{where} has no weights {_some(missing)}: {hint}")
    unknown = sorted(rename(name) for name in set(weights) - set(expected))
    if unknown:
        raise InputError(f"{where} has weights {_some(unknown)}, which this model has not: {hint}")
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise InputError(
                f"{where}: {rename(name)} is {_shape(weights[name])}, {_shape(tensor)} is expected: {hint}"
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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
