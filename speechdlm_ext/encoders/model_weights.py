"""Weights of published speech models: read without running them, loaded strictly, and told apart by a digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.weight_norm import older_name
from speechdlm_ext.modules.weights import check_weights

Weights = dict[str, Tensor]

_POSITIONS = "encoder.pos_conv.0."


def read_weights(path: Path) -> tuple[dict[str, Any], Weights]:
    """A checkpoint, and the weights under ``model`` in it, under the names that fairseq gives them.

    Raises:
        InputError: the file is missing or damaged, would run code, or has no weights under ``model``; or weights are
            not finite numbers.
    """
    state = load_checkpoint(path)
    weights = state.get("model") if isinstance(state, dict) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        found = ", ".join(map(str, list(state)[:8])) if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path} has no weights under 'model' (it has: {found}): a checkpoint of fairseq is expected")
    named = {older_name(str(name)): value.to(torch.float32) for name, value in weights.items()}
    for name, value in named.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: weights {name} have values that are not finite: the file is damaged")
    return state, named


def has_batch_norm(weights: Weights, path: Path) -> bool:
    """Whether the convolution that tells positions has a batch norm before it, rather than a norm of its weight.

    Raises:
        InputError: the checkpoint has neither form.
    """
    if f"{_POSITIONS}running_mean" in weights:
        return True
    if f"{_POSITIONS}weight_g" in weights and f"{_POSITIONS}weight_v" in weights:
        return False
    found = sorted(name for name in weights if name.startswith("encoder.pos_conv."))
    raise InputError(
        f"{path} has no {_POSITIONS}weight_g and weight_v, nor {_POSITIONS}running_mean, for its positional "
        f"convolution (it has: {', '.join(found) or 'none'}): it is of another model"
    )


def load_strictly(module: nn.Module, weights: Weights, path: Path, rename: Callable[[str], str] = str) -> None:
    """Load weights that must be exactly those of the module.

    Args:
        rename: from the module's names to those of the file, for messages.

    Raises:
        InputError: a weight is missing, left over, or of another shape; it names them.
    """
    counts = {name: count for name, count in module.state_dict().items() if name.endswith("num_batches_tracked")}
    weights = {**counts, **weights}  # a batch norm's count of batches is no weight
    check_weights(module, weights, str(path), "it is of another model, or is damaged", rename)
    module.load_state_dict(weights)


def needed_weights(weights: Weights, layer: int, blocks: int, spare: re.Pattern[str]) -> Weights:
    """Those that the first ``layer`` of ``blocks`` blocks need; what matches ``spare`` is for pre-training alone."""
    later = {f"encoder.layers.{number}." for number in range(layer, blocks)}
    return {
        name: value
        for name, value in weights.items()
        if not spare.match(name) and re.sub(r"(?<=^encoder\.layers\.)(\d+\.).*", r"\1", name) not in later
    }


def digest_weights(weights: Weights, facts: Mapping[str, Any]) -> str:
    """Sixteen hex digits that tell models apart: of the weights, in float32, and of ``facts`` that they do not show."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(weights):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tuple(weights[name].shape)}".encode())
            digest.update(weights[name].contiguous().numpy().data)
    return digest.hexdigest()[:16]


def check_layer(layer: int | None, blocks: int, path: Path | str) -> int:
    """The layer, if the model has it.

    Raises:
        InputError: no layer is named, or the model has fewer blocks.
    """
    if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= layer <= blocks:
        found = "no layer is named" if layer is None else f"layer {layer} is expected"
        raise InputError(f"{path} has {blocks} blocks and {found}: pass layer=1 to layer={blocks}")
    return layer
