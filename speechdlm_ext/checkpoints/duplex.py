"""Duplex models from published folders (config.json, model.safetensors), .nemo files, checkpoints of fairseq-train."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from speechdlm_ext.checkpoints.speech_llm_folder import CONFIG, WEIGHTS, check_tokenizer, nemo_config, write_folder
from speechdlm_ext.codecs.nemo import NemoCodec
from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.config import read_config
from speechdlm_ext.io.nemo import read_nemo
from speechdlm_ext.models.duplex_s2s import TASK_STATE, DuplexParts, DuplexS2S, build_duplex
from speechdlm_ext.modules.weights import check_finite, check_weights, read_safetensors

_CODEC = "audio_codec."
_MASK = ".self_attention.causal_mask"  # a triangle in each layer of published speech decoders


def read_duplex(path: str | os.PathLike[str], trust: bool | None = None) -> tuple[DuplexS2S, DuplexParts]:
    """Read a published folder, a ``.nemo`` file, or a checkpoint of fairseq-train.

    Args:
        trust: whether loading may run code that is in a checkpoint, see :func:`load_checkpoint`.

    Returns:
        The model in evaluation mode, and what it was built of.

    Raises:
        InputError: a file is missing or damaged, weights are missing, unknown, of another shape or no numbers, or those
            that a checkpoint does without are no longer where they were; the tokenizer is another.
    """
    path = Path(path)
    partial = False
    if path.is_dir():
        where, beside = path / WEIGHTS, path
        config, weights = _folder(path)
    elif path.suffix == ".nemo":
        where, beside = path, path.parent
        file = read_nemo(path)
        file.expect("DuplexS2SModel", "DuplexS2SSpeechDecoderModel")
        config, weights = nemo_config(file), file.weights
    else:
        where, beside = path, path.parent
        config, weights, partial = _checkpoint(path, trust)
    try:
        parts = DuplexParts.of(config if partial else {**config, "pretrained_weights": False}, beside)
        model = build_duplex(parts)
    except InputError as error:
        if not partial:
            raise
        raise InputError(f"{path}: its frozen weights are in {config['pretrained_llm']}: {error}") from None
    if path.is_dir():
        check_tokenizer(where, parts.tokenizer)
    if partial:
        model.leave_out_frozen(config)
        weights = {**{name: nn.Module.state_dict(model)[name] for name in model.left_out()}, **weights}
        model.save_trained_only = False
    of_codec = {name.removeprefix(_CODEC): value for name, value in weights.items() if name.startswith(_CODEC)}
    own = {name: value for name, value in weights.items() if not name.startswith(_CODEC) and not name.endswith(_MASK)}
    if of_codec and isinstance(parts.codec, NemoCodec):
        parts.codec.load_nemo(of_codec, str(where))
    check_weights(model, own, str(where))
    kinds = {tensor.dtype for tensor in own.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        model.to(dtype=kinds.pop())
    nn.Module.load_state_dict(model, own)
    check_finite(model, str(where))
    return model.eval(), parts


def write_duplex(folder: str | os.PathLike[str], model: DuplexS2S, parts: DuplexParts, overwrite: bool = False) -> None:
    """Write a published folder, see :func:`.write_folder`.

    What follows from the configuration (causal masks, losses of the codec) is not written.
    """
    weights = dict(nn.Module.state_dict(model))
    if isinstance(parts.codec, NemoCodec):
        weights |= {_CODEC + name: value for name, value in parts.codec.state_dict().items()}
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    write_folder(folder, parts.config, tensors, model.llm, parts.tokenizer, overwrite)


def _folder(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    if not (path / CONFIG).is_file():
        raise InputError(f"{path}: no {CONFIG} in it: not the folder of a saved model, or saving was interrupted")
    return read_config(path / CONFIG), read_safetensors(path / WEIGHTS)


def _checkpoint(path: Path, trust: bool | None) -> tuple[dict[str, Any], Mapping[str, Tensor], bool]:
    """The configuration and the weights of a checkpoint, and whether these are the trained ones alone."""
    state = load_checkpoint(path, trust=trust)
    task_state = state.get("task_state") if isinstance(state, Mapping) else None
    if not task_state or TASK_STATE not in task_state or not isinstance(state.get("model"), Mapping):
        raise InputError(f"{path}: neither a checkpoint of a duplex model nor a folder with {CONFIG}")
    options = (state.get("cfg") or {}).get("model") or {}
    return json.loads(task_state[TASK_STATE]), state["model"], bool(options.get("save_trained_only"))
