"""DP-SLM's acoustic models (ELLA-V): their published form, and their names.

A file holds ``{"model_args": …, "tokenizer": …, "model_state": …}``; weights have our names without ``decoder.``.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.checkpoints.dpslm import MODEL_ARGS, read_model_args
from speechdlm_ext.checkpoints.model_state import PREFIX
from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.data.unit_codec_dictionary import UnitCodecDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.published import Published, locate
from speechdlm_ext.models.unit_to_codec import UnitToCodec, UnitToCodecConfig
from speechdlm_ext.modules.weights import check_finite, check_weights

_RELEASE = "https://github.com/nicolvisser/ELLA-V/releases/download/v0.1.0"
# The first digits of each file's SHA-256, by (K, λ).
DIGESTS = {
    (100, 0): "c4686bf9",
    (100, 600): "1448a9ec",
    (100, 1500): "6bdae6f8",
    (100, 3000): "6e277bbd",
    (100, 5000): "90149573",
    (100, 9000): "58352115",
    (200, 0): "bc26448e",
    (200, 700): "32e22dc4",
    (200, 1500): "7b009e62",
    (200, 3000): "8c19612d",
    (200, 5000): "a7d6e988",
    (200, 7500): "c6673f9e",
    (500, 0): "e6f3c91d",
    (500, 600): "9e639ac6",
    (500, 1500): "89352a68",
    (500, 2800): "f76d2db5",
    (500, 4500): "3815b3ab",
    (500, 7000): "f0b78c0f",
    (1000, 0): "96650d8d",
    (1000, 600): "1505a398",
    (1000, 1400): "98bd66a9",
    (1000, 2500): "fedea4c6",
    (1000, 3800): "d286d597",
    (1000, 6000): "5fb405fc",
}
UNIT_TO_CODEC = {
    f"ellav-k{units}-l{penalty}": Published(
        f"{_RELEASE}/ella-v-wavlm-layer-11-k-{units}-lmbda-{penalty}-clean-10k-40hz-{digest}.pt", digest
    )
    for (units, penalty), digest in DIGESTS.items()
}


def locate_unit_to_codec(path_or_name: str | os.PathLike[str]) -> Path:
    """The path of a model given by path, or by name (``ellav-k500-l4500``), which fetches it into the cache.

    Raises:
        InputError: there is no such file, nor such a name (for a wrong K or λ the published pairs are listed), or it
            cannot be fetched.
    """
    given = os.fspath(path_or_name)
    pair = re.fullmatch(r"ellav-k(\d+)-l(\d+)", given)
    if pair and given not in UNIT_TO_CODEC and not os.path.exists(given):
        pairs = ", ".join(f"k{units}-l{penalty}" for units, penalty in DIGESTS)
        raise InputError(f"{given}: no acoustic model is published for K={pair[1]}, λ={pair[2]}; there are {pairs}")
    return locate(given, UNIT_TO_CODEC)


def read_unit_to_codec(path: str | os.PathLike[str], trust: bool | None = None) -> UnitToCodec:
    """Read a model: the published form, or a checkpoint of fairseq-train.

    Args:
        trust: whether loading may run code that is in the file, as pickles can; see :func:`load_checkpoint`.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: there is no such file, it is damaged or of another model, or has weights that are not numbers.
    """
    where = os.fspath(path)
    state = load_checkpoint(path, trust=trust)
    if not isinstance(state, Mapping):
        raise InputError(f"{where}: not a checkpoint of a unit-to-codec model")
    if {"model_args", "tokenizer", "model_state"} <= state.keys():
        args = read_model_args({"dropout": 0.0, **_plain(state["model_args"])}, where)
        options = {ours: args[name] for name, ours in MODEL_ARGS.items()}
        tokenizer, weights = state["tokenizer"], {PREFIX + name: value for name, value in state["model_state"].items()}
    elif isinstance(state.get("task_state"), Mapping) and "tokenizer" in state["task_state"]:
        model = state["cfg"]["model"]
        options = {name: model[name] for name in MODEL_ARGS.values() if name in model}
        tokenizer, weights = state["task_state"]["tokenizer"], dict(state["model"])
    else:
        raise InputError(f"{where}: not a checkpoint of a unit-to-codec model (model_args, tokenizer, model_state)")
    dictionary = UnitCodecDictionary.of_published(_plain(tokenizer), where)
    rows = weights.get(f"{PREFIX}tok_embeddings.weight")
    if rows is not None and len(rows) != len(dictionary):
        raise InputError(f"{where} has {len(rows)} rows of weights, its tokenizer {len(dictionary)} tokens")
    arguments = Namespace(**{**vars(UnitToCodecConfig()), **options, "durations": False})
    model = UnitToCodec.build_model(arguments, Namespace(source_dictionary=dictionary))
    check_weights(model, weights, where)
    model.load_state_dict(weights)
    check_finite(model, where)
    return model.eval()


def write_unit_to_codec(model: UnitToCodec, target: Path, overwrite: bool = False) -> None:
    """Write a model in the published form; raises :class:`InputError` where ``target`` exists and not ``overwrite``."""
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists: pass --overwrite, or choose another place")
    args = model.decoder.args
    heads = args.decoder_attention_heads
    options = {name: getattr(args, ours) for name, ours in MODEL_ARGS.items() if name != "dropout"}
    options.update(
        head_dim=args.decoder_head_dim or args.decoder_embed_dim // heads,
        n_kv_heads=args.decoder_kv_heads or heads,
        vocab_size=len(model.dictionary),
        max_batch_size=0,
    )
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in model.state_dict().items()}
    with atomic_write(target, "wb") as file:
        torch.save({"model_args": options, "tokenizer": model.dictionary.published(), "model_state": weights}, file)


def _plain(options: Any) -> dict[str, Any]:
    """A dictionary, or what a namespace or dataclass holds."""
    return dict(options) if isinstance(options, Mapping) else dict(getattr(options, "__dict__", {}))
