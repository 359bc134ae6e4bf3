"""The published forms of unit language models, DP-SLM's and AMELA's, to and from the options and weights of ours.

DP-SLM: ``{"model_args": …, "model_state_dict": …}``; its rows are ours (BOS 0, unit i in row i + 1), and its weights
have our names without ``decoder.``. AMELA: weights of an embedding, an LSTM and a linear layer; unit i is in row i, SOS
in row K, and in later ones padding in row K + 1. Padding is no outcome of a sequence: its rows are left out, so that
probabilities are those given that there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechdlm_ext.errors import InputError

PREFIX = "decoder."
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
# AMELA's codebook; only a vocabulary of its two sizes says without further words where SOS and padding are.
AMELA_UNITS = 2000
# What AMELA's model adds for each symbol: by name, of the embedding and the output.
_ROWS = ("embedding.weight", "output.weight", "output.bias")


class Form(NamedTuple):
    """A unit language model as data.

    Attributes:
        kind: ``unit_lm`` or ``unit_lstm``.
        units: size K of the codebook.
        options: of the model, by our names.
        weights: by our names, in our order of rows.
        frame_rate: frames a second of durations, or of units that are not deduplicated; ``None`` if not known.
    """

    kind: str
    units: int
    options: dict[str, Any]
    weights: dict[str, Tensor]
    frame_rate: float | None = None


def is_dpslm(state: Any) -> bool:
    """Whether a file holds DP-SLM's published form."""
    return isinstance(state, Mapping) and {"model_args", "model_state_dict"} <= state.keys()


def is_amela(state: Any) -> bool:
    """Whether a file holds the weights of an AMELA model, nothing else."""
    return isinstance(state, Mapping) and {"embedding.weight", "lstm.weight_ih_l0", *_ROWS} <= state.keys()


def from_dpslm(state: Mapping[str, Any], where: str) -> Form:
    """Read DP-SLM's form; raises :class:`InputError` where options and weights disagree, or are not whole."""
    args, published = _model_args(state["model_args"], where), state["model_state_dict"]
    if not isinstance(published, Mapping) or not all(isinstance(tensor, Tensor) for tensor in published.values()):
        raise InputError(f"{where}: model_state_dict is not made of tensors by name: the file is damaged")
    rows = published.get("tok_embeddings.weight")
    if rows is None or len(rows) != args["vocab_size"]:
        found = "no" if rows is None else f"{len(rows)} rows of"
        raise InputError(
            f"{where}: {found} tok_embeddings.weight, {args['vocab_size']} are wanted (model_args.vocab_size)"
        )
    if "output.bias" in published:
        raise InputError(f"{where}: its output has a bias: an acoustic model, not a unit language model")
    options = {ours: args[name] for name, ours in MODEL_ARGS.items()}
    weights = {PREFIX + name: tensor for name, tensor in published.items()}
    return Form("unit_lm", args["vocab_size"] - 1, {**options, "checkpoint_activations": False}, weights)


def _model_args(given: Any, where: str) -> dict[str, Any]:
    """The published options by their names: a dictionary, a namespace, or a dataclass of a file that is trusted."""
    args = dict(given) if isinstance(given, Mapping) else dict(getattr(given, "__dict__", {}))
    missing = [name for name in (*MODEL_ARGS, "vocab_size") if name not in args]
    if missing:
        raise InputError(f"{where}: model_args has no {missing[0]}: not a checkpoint of DP-SLM's unit language model")
    for name in (*MODEL_ARGS, "vocab_size"):
        fraction = name in ("dropout", "norm_eps", "rope_theta")
        value = args[name]
        if isinstance(value, bool) or not isinstance(value, (int, float) if fraction else int):
            wanted = "a number" if fraction else "a whole number"
            raise InputError(f"{where}: model_args.{name} is {value!r}, {wanted} is wanted")
    return args


def to_dpslm(form: Form, where: str) -> dict[str, Any]:
    """DP-SLM's form of a transformer.

    Raises:
        InputError: it is no transformer, or one that predicts durations, which the published form has no place for.
    """
    _check_form(form, "unit_lm", where)
    options = dict(form.options)
    heads, dim = options["decoder_attention_heads"], options["decoder_embed_dim"]
    options["decoder_kv_heads"] = options["decoder_kv_heads"] or heads
    options["decoder_head_dim"] = options["decoder_head_dim"] or dim // heads
    return {
        "model_args": {**{name: options[ours] for name, ours in MODEL_ARGS.items()}, "vocab_size": form.units + 1},
        "model_state_dict": {name.removeprefix(PREFIX): tensor for name, tensor in form.weights.items()},
    }


def from_amela(weights: Mapping[str, Tensor], where: str, config: Mapping[str, Any] | None = None) -> Form:
    """Read AMELA's form.

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
            "wanted (config.json beside the weights says sos_token_id)"
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
    return Form("unit_lstm", units, options, {PREFIX + name: tensor for name, tensor in ours.items()})


def to_amela(form: Form, where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """AMELA's form of an LSTM, without padding: ``config.json`` and weights.

    Raises:
        InputError: it is no LSTM, or one that predicts durations, which the published form has no place for.
    """
    _check_form(form, "unit_lstm", where)
    config = {
        "model_type": "lstm",
        "vocab_size": form.units + 1,
        "sos_token_id": form.units,
        "embedding_dim": form.options["decoder_embed_dim"],
        "hidden_size": form.options["decoder_hidden_size"],
        "num_layers": form.options["decoder_layers"],
        "dropout": form.options["dropout"],
    }
    order = torch.tensor([*range(1, form.units + 1), 0])
    theirs = {name.removeprefix(PREFIX): tensor for name, tensor in form.weights.items()}
    return config, {name: tensor[order] if name in _ROWS else tensor for name, tensor in theirs.items()}


def _check_form(form: Form, kind: str, where: str) -> None:
    if form.kind != kind:
        raise InputError(f"{where} is a {form.kind}, this form is for a {kind}")
    if any("output_duration" in name for name in form.weights):
        raise InputError(f"{where} predicts durations, which this form has no place for: train without --durations")
