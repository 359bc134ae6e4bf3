"""The model of HuBERT: fairseq's own modules, as many blocks as are needed, and the options of its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from speechdlm_ext.compat.quiet_imports import quiet
from speechdlm_ext.encoders.model_weights import Weights
from speechdlm_ext.encoders.speech_model import SpeechModel
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.weight_norm import fold_weight_norm

# The options that make the model what it is, and which weights do not show; the rest concerns its training.
FACTS = ("extractor_mode", "conv_feature_layers", "conv_bias", "conv_pos", "conv_pos_groups", "layer_norm_first") + (
    "encoder_layers",
    "encoder_embed_dim",
    "encoder_ffn_embed_dim",
    "encoder_attention_heads",
    "activation_fn",
    "layer_type",
    "pos_conv_depth",
)


class HubertBlocks(SpeechModel):
    """The first blocks of fairseq's HubertModel; weights have its names, but for the positional convolution.

    Args:
        options: of HubertConfig, ``encoder_layers`` being how many blocks to make.
        batch_norm: whether a batch norm stands before the positional convolution.
    """

    def __init__(self, options: Mapping[str, Any], batch_norm: bool) -> None:
        with quiet():
            from fairseq.models.hubert.hubert import HubertConfig, HubertModel
            from fairseq.modules import SamePad

            config = HubertConfig(label_rate=1.0)
            for name, value in options.items():
                setattr(config, name, value)
            whole = HubertModel(config, SimpleNamespace(sample_rate=1), [None])
        super().__init__([(layer[0], _norm(layer)) for layer in whole.feature_extractor.conv_layers])
        self.feature_extractor = whole.feature_extractor
        self.layer_norm = whole.layer_norm
        self.post_extract_proj = whole.post_extract_proj
        self.encoder = whole.encoder
        dim, kernel = config.encoder_embed_dim, config.conv_pos
        # The weight norm is folded: it would be computed anew for every batch. fairseq 0.12.2 has no batch norm here;
        # later versions put it first in the sequence.
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=config.conv_pos_groups)
        norm = nn.BatchNorm1d(dim) if batch_norm else nn.Identity()
        self.encoder.pos_conv = nn.Sequential(norm, conv, SamePad(kernel), nn.GELU())

    def project(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer_norm(x)
        return x if self.post_extract_proj is None else self.post_extract_proj(x)

    def positions(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        norm, *rest = self.encoder.pos_conv
        x = norm(x.transpose(1, 2))
        if padding is not None:  # the batch norm's output for padding is not zero, which is what ends a single sound
            x = x.masked_fill(padding[:, None], 0)
        for module in rest:
            x = module(x)
        return x.transpose(1, 2)

    def transform(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        if not self.encoder.layer_norm_first:
            x = self.encoder.layer_norm(x)
        x = x.transpose(0, 1)
        for block in self.encoder.layers:
            x, _ = block(x, self_attn_padding_mask=padding, need_weights=False)
        return x.transpose(0, 1)


def _norm(layer: nn.Sequential) -> nn.Module | None:
    """The norm of fairseq's convolution layer: convolution, dropout, norm if any, GELU."""
    return layer[2] if len(layer) == 4 else None


def positions_as_here(weights: Weights, batch_norm: bool, where: str = "the checkpoint") -> Weights:
    """A checkpoint's weights under the names of :class:`HubertBlocks`, the weight norm folded."""
    if batch_norm:
        return weights
    return {
        name.replace("encoder.pos_conv.0.", "encoder.pos_conv.1."): value
        for name, value in fold_weight_norm(weights, where).items()
    }


def name_in_file(name: str) -> str:
    """The name in a checkpoint with weight norm of what :class:`HubertBlocks` calls ``name``."""
    return name.replace("encoder.pos_conv.1.", "encoder.pos_conv.0.")


_PRETRAINED = re.compile(r"hubert(_(base|large|xlarge)\w*)?")


def read_options(
    state: Mapping[str, Any], path: Path, kinds: re.Pattern[str] = _PRETRAINED
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of model and task: what the checkpoint says, and HubertConfig's defaults for what it does not.

    Args:
        state: the checkpoint.
        path: for messages.
        kinds: names that its model may have.

    Raises:
        InputError: it is of another model, or one that is built otherwise.
    """
    cfg, args = state.get("cfg"), state.get("args")
    if cfg is not None and "model" in cfg:
        model, task = plain_options(cfg["model"]), plain_options(cfg.get("task"))
        kind = model.get("_name") or model.get("arch")
    elif args is not None:
        model = task = plain_options(args)
        kind = model.get("arch")
    else:
        raise InputError(f"{path} has neither cfg nor args with the model's options: a checkpoint of fairseq is wanted")
    if kind is not None and not kinds.fullmatch(str(kind)):
        raise InputError(f"{path} is of the model {kind}, a hubert (pre-trained, not fine-tuned) is wanted")
    options = {name: _value(model.get(name), default) for name, default in _defaults().items()}
    if options["layer_type"] != "transformer" or options["pos_conv_depth"] != 1:
        depth, blocks = options["pos_conv_depth"], options["layer_type"]
        raise InputError(
            f"{path} has {depth} positional convolutions and {blocks} blocks: 1 and transformer are wanted"
        )
    return options, {name: _value(task.get(name), value) for name, value in _TASK.items()}


_TASK = {"sample_rate": 16000, "normalize": False}


def _defaults() -> dict[str, Any]:
    from fairseq.models.hubert.hubert import HubertConfig

    config = HubertConfig(label_rate=1.0)
    return {name: getattr(config, name, 1) for name in FACTS}


def _value(value: Any, default: Any) -> Any:
    """An option as the type of its default: old checkpoints have whole numbers as floats, new ones enumerations."""
    return default if value is None else type(default)(getattr(value, "value", value))


def plain_options(options: Any) -> dict[str, Any]:
    """Options of a checkpoint, which are a dict, OmegaConf's, or a Namespace, as a dict; references stay text."""
    if options is None:
        return {}
    if isinstance(options, dict):
        return dict(options)
    from omegaconf import DictConfig, OmegaConf

    if isinstance(options, DictConfig):
        return dict(OmegaConf.to_container(options, resolve=False))
    return dict(vars(options))
