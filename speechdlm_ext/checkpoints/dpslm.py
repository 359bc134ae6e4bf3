"""DP-SLM's unit language models: their published form, and their names.

A file holds ``{"model_args": …, "model_state_dict": …}``; its rows are ours (BOS 0, unit i in row i + 1), and its
weights have our names without ``decoder.``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.checkpoints.model_state import PREFIX, ModelState
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.published import Published, locate

# Our options by the published names.
MODEL_ARGS = {
    "dim": "decoder_embed_dim",
    "n_layers": "decoder_layers",
    "head_dim": "decoder_head_dim",
    "hidden_dim": "decoder_ffn_embed_dim",
    "n_heads": "decoder_attention_heads",
    "n_kv_heads": "decoder_kv_heads",
    "dropout": "dropout",
    "norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
}


def is_dpslm(state: Any) -> bool:
    """Whether a file holds DP-SLM's published state."""
    return isinstance(state, Mapping) and {"model_args", "model_state_dict"} <= state.keys()


def from_dpslm(found: Mapping[str, Any], where: str) -> ModelState:
    """Read DP-SLM's form; raises :class:`InputError` where options and weights disagree, or are not whole."""
    args, published = read_model_args(found["model_args"], where), found["model_state_dict"]
    if not isinstance(published, Mapping) or not all(isinstance(tensor, Tensor) for tensor in published.values()):
        raise InputError(f"{where}: model_state_dict is not made of tensors by name: the file is damaged")
    rows = published.get("tok_embeddings.weight")
    if rows is None or len(rows) != args["vocab_size"]:
        size = "no" if rows is None else f"{len(rows)} rows of"
        raise InputError(
            f"{where}: {size} tok_embeddings.weight, {args['vocab_size']} are expected (model_args.vocab_size)"
        )
    if "output.bias" in published:
        raise InputError(f"{where}: its output has a bias: an acoustic model, not a unit language model")
    options = {ours: args[name] for name, ours in MODEL_ARGS.items()}
    weights = {PREFIX + name: tensor for name, tensor in published.items()}
    return ModelState("unit_lm", args["vocab_size"] - 1, {**options, "checkpoint_activations": False}, weights)


def read_model_args(given: Any, where: str) -> dict[str, Any]:
    """The published options by their names: a dictionary, a namespace, or a dataclass of a file that is trusted."""
    args = dict(given) if isinstance(given, Mapping) else dict(getattr(given, "__dict__", {}))
    missing = [name for name in (*MODEL_ARGS, "vocab_size") if name not in args]
    if missing:
        raise InputError(f"{where}: model_args has no {missing[0]}: not a checkpoint of DP-SLM's unit language model")
    for name in (*MODEL_ARGS, "vocab_size"):
        fraction = name in ("dropout", "norm_eps", "rope_theta")
        value = args[name]
        if isinstance(value, bool) or not isinstance(value, (int, float) if fraction else int):
            expected = "a number" if fraction else "a whole number"
            raise InputError(f"{where}: model_args.{name} is {value!r}, {expected} is expected")
    return args


def to_dpslm(state: ModelState, where: str) -> dict[str, Any]:
    """DP-SLM's form of a transformer.

    Raises:
        InputError: it is no transformer, or one that predicts durations, which the published form has no place for.
    """
    options = dict(state.of_kind("unit_lm", where).options)
    heads, dim = options["decoder_attention_heads"], options["decoder_embed_dim"]
    options["decoder_kv_heads"] = options["decoder_kv_heads"] or heads
    options["decoder_head_dim"] = options["decoder_head_dim"] or dim // heads
    return {
        "model_args": {**{name: options[ours] for name, ours in MODEL_ARGS.items()}, "vocab_size": state.units + 1},
        "model_state_dict": {name.removeprefix(PREFIX): tensor for name, tensor in state.weights.items()},
    }


def write_dpslm(state: ModelState, target: Path, where: str) -> list[Path]:
    """Write a transformer as DP-SLM publishes them; returns the files."""
    published = to_dpslm(state, where)
    with atomic_write(target, "wb") as file:
        torch.save(published, file)
    return [target]


_RELEASE = "https://github.com/nicolvisser/Mistral-ULM/releases/download/v0.1.0"
# The first digits of each file's SHA-256, by (K, λ); trained on a thousand hours.
DIGESTS = {
    (100, 0): "b7a35cc5",
    (100, 600): "17e91718",
    (100, 1500): "6ba3cc55",
    (100, 3000): "5d0669b5",
    (100, 5000): "0c1af6fe",
    (100, 9000): "92bc9c97",
    (200, 0): "5574c355",
    (200, 700): "487bae0c",
    (200, 1500): "8524865e",
    (200, 3000): "ac40635d",
    (200, 5000): "09a1f87c",
    (200, 7500): "b685aac0",
    (500, 0): "532387cd",
    (500, 600): "b96bee1d",
    (500, 1500): "853fbee4",
    (500, 2800): "ef015b7f",
    (500, 4500): "9b75c46e",
    (500, 7000): "886ec1dd",
    (1000, 0): "56124eaa",
    (1000, 600): "810cb2f0",
    (1000, 1400): "7f014b7e",
    (1000, 2500): "c5cd03ce",
    (1000, 3800): "2c798110",
    (1000, 6000): "df9e72a7",
}
# The one that was trained on sixty thousand hours.
LARGE = "mistral-ulm-k-500-lmbda-4500-hours-60k"


def name_of(units: int, penalty: int) -> str:
    """The name of the model for a codebook of ``units`` and a duration penalty λ.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if (units, penalty) not in DIGESTS:
        pairs = "; ".join(
            f"K={k}: λ={', '.join(str(other) for size, other in DIGESTS if size == k)}"
            for k in dict.fromkeys(size for size, _ in DIGESTS)
        )
        raise InputError(f"K={units}, λ={penalty}: no unit language model is published for these; there are {pairs}")
    return f"mistral-ulm-k-{units}-lmbda-{penalty}"


UNIT_LMS = {
    name_of(units, penalty): Published(
        f"{_RELEASE}/mistral-ulm-k-{units}-lmbda-{penalty}-hours-1k-steps-10k-{digest}.pt", digest
    )
    for (units, penalty), digest in DIGESTS.items()
} | {LARGE: Published(f"{_RELEASE}/{LARGE}-steps-200k-09759305.pt", "09759305")}


def locate_unit_lm(path_or_name: str | os.PathLike[str]) -> Path:
    """The path of a unit language model given by path, or by name, which fetches it into the cache.

    Raises:
        InputError: there is no such file, nor such a name (for a wrong K or λ those that there are are listed), or it
            cannot be fetched.
    """
    given = os.fspath(path_or_name)
    pair = re.fullmatch(r"mistral-ulm-k-(\d+)-lmbda-(\d+)", given)
    if pair and not os.path.exists(given):
        given = name_of(int(pair[1]), int(pair[2]))
    return locate(given, UNIT_LMS)
