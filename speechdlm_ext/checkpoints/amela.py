"""AMELA's LSTM language models: a folder of ``config.json`` and ``model.safetensors``, or the weights alone.

Unit i is in row i, SOS in row K, and in later files padding in row K + 1. Padding is no outcome of a sequence: its rows
are dropped, so that probabilities are those given that there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from speechdlm_ext.checkpoints.model_state import PREFIX, ModelState
from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.config import read_config, write_json
from speechdlm_ext.modules.weights import read_safetensors

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
# AMELA's codebook; only a vocabulary of its two sizes says without further words where SOS and padding are.
AMELA_UNITS = 2000
# What AMELA's model adds for each symbol: by name, of the embedding and the output.
_ROWS = ("embedding.weight", "output.weight", "output.bias")


def is_amela(state: Any) -> bool:
    """Whether a file holds the weights of an AMELA model, nothing else."""
    return isinstance(state, Mapping) and {"embedding.weight", "lstm.weight_ih_l0", *_ROWS} <= state.keys()


def from_amela(weights: Mapping[str, Tensor], where: str, config: Mapping[str, Any] | None = None) -> ModelState:
    """Read AMELA's state.

    Args:
        config: of its ``config.json``, where SOS is; without it, the vocabulary must be of 2000 units.

    Raises:
        InputError: weights that are missing or do not fit each other.
    """
    lost = [name for name in _ROWS if name not in weights]
    if lost:
        raise InputError(f"{where} has no weights {lost[0]}: not an LSTM language model of AMELA")
    vocabulary, dim = weights["embedding.weight"].shape
    units = config.get("sos_token_id") if config else AMELA_UNITS
    if not isinstance(units, int) or not units < vocabulary <= units + 2:
        raise InputError(
            f"{where}: {vocabulary} rows, SOS in row {units}: one for each unit, then SOS, and padding or nothing, are "
            "expected (config.json beside the weights says sos_token_id)"
        )
    order = torch.tensor([units, *range(units)])
    ours = {name: tensor[order] if name in _ROWS else tensor for name, tensor in weights.items()}
    layers = sum(re.fullmatch(r"lstm\.weight_hh_l\d+", name) is not None for name in weights)
    options = {
        "decoder_embed_dim": dim,
        "decoder_hidden_size": weights["output.weight"].size(1),
        "decoder_layers": layers,
        "dropout": float((config or {}).get("dropout", 0.1)),
    }
    return ModelState("unit_lstm", units, options, {PREFIX + name: tensor for name, tensor in ours.items()})


def to_amela(state: ModelState, where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """AMELA's form of an LSTM, without padding: ``config.json`` and weights.

    Raises:
        InputError: it is no LSTM, or one that predicts durations, which the published form has no place for.
    """
    state = state.of_kind("unit_lstm", where)
    config = {
        "model_type": "lstm",
        "vocab_size": state.units + 1,
        "sos_token_id": state.units,
        "embedding_dim": state.options["decoder_embed_dim"],
        "hidden_size": state.options["decoder_hidden_size"],
        "num_layers": state.options["decoder_layers"],
        "dropout": state.options["dropout"],
    }
    order = torch.tensor([*range(1, state.units + 1), 0])
    theirs = {name.removeprefix(PREFIX): tensor for name, tensor in state.weights.items()}
    return config, {name: tensor[order] if name in _ROWS else tensor for name, tensor in theirs.items()}


def read_amela_folder(folder: Path, trust: bool | None) -> ModelState:
    """Read a folder; ``trust`` as for :func:`load_checkpoint`.

    Raises:
        InputError: a file is missing or damaged, or of another model.
    """
    config = folder / CONFIG
    found = next((folder / name for name in (WEIGHTS, OLD_WEIGHTS) if (folder / name).is_file()), None)
    if found is None or not config.is_file():
        raise InputError(f"{folder}: {CONFIG} with {WEIGHTS} or {OLD_WEIGHTS} is expected, they are not all there")
    options = read_config(config)
    if options.get("model_type") != "lstm":
        raise InputError(f"{config}: model_type is not lstm: not an LSTM language model of AMELA")
    return read_amela_weights(found, trust, options)


def read_amela_weights(path: Path, trust: bool | None = None, config: Mapping[str, Any] | None = None) -> ModelState:
    """Read weights alone, or those of a folder with its ``config``."""
    weights = read_safetensors(path) if path.suffix == ".safetensors" else load_checkpoint(path, trust=trust)
    return from_amela(weights, str(path), config)


def write_amela(state: ModelState, target: Path, where: str) -> list[Path]:
    """Write an LSTM as the folder ``target``; returns the files."""
    config, weights = to_amela(state, where)
    paths = [target / WEIGHTS, target / CONFIG]
    with atomic_write(paths[0], "wb") as file:
        plain = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
        file.write(safetensors.torch.save(plain, {"format": "pt"}))
    write_json(paths[1], config)
    return paths
