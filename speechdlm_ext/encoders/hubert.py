"""HuBERT checkpoints of fairseq as an encoder: base, large, multilingual, Fisher, at 50 or 25 Hz."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from speechdlm_ext.compat.quiet_imports import quiet
from speechdlm_ext.encoders.chunking import FrameGrid
from speechdlm_ext.encoders.model_weights import (
    Weights,
    check_layer,
    digest_weights,
    has_batch_norm,
    load_strictly,
    needed_weights,
    read_weights,
)
from speechdlm_ext.encoders.pretrained import PretrainedEncoder, SpeechModel
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.published import HUBERT, locate
from speechdlm_ext.modules.weight_norm import fold_weight_norm

# What pre-training needs beside the encoder.
_SPARE = re.compile(
    r"(mask_emb$|label_embs_concat$|final_proj\.|target_glu\.|encoder\.pos_conv\.0\.num_batches_tracked)"
)


class HubertEncoder(PretrainedEncoder):
    """The output of one block of a HuBERT model (Hsu et al., 2021), as fairseq's ``extract_features`` gives it.

    ``N`` samples give ``(N - 400) // 320 + 1`` frames with the usual convolutions. The sound is layer-normed as a
    whole where the task of the checkpoint says so (``normalize``), and only there. Blocks after ``layer`` are neither
    run nor kept. Sound longer than ``chunk_seconds + context_seconds`` is cut into windows; docs/encoders.md says what
    that changes.

    Args:
        checkpoint: a file of fairseq-train, with its options as ``cfg`` or ``args``, or a published name
            (``hubert-base-ls960``, ``mhubert-base-vp_mls_cv_8lang``, …), which is fetched when it is not in the cache.
        layer: the block, from 1.
        chunk_seconds: how much of a long recording is kept of one window.
        context_seconds: how much more of it the window sees on either side.

    Raises:
        InputError: the file is missing, or is not a HuBERT whose every weight is there; there is no such layer.
    """

    name = "hubert"

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        layer: int | None = None,
        chunk_seconds: float = 100.0,
        context_seconds: float = 5.0,
    ) -> None:
        path = locate(checkpoint, HUBERT)
        with quiet():
            import fairseq.models.hubert  # noqa: F401 - the classes that checkpoints name

        state, weights = read_weights(path)
        options, task = read_options(state, path)
        layer = check_layer(layer, options["encoder_layers"], path)
        batch_norm = has_batch_norm(weights, path)
        weights = needed_weights(weights, layer, options["encoder_layers"], _SPARE)
        facts = {name: options[name] for name in FACTS} | {"encoder_layers": layer}
        digest = digest_weights(weights, facts)
        model = HubertBlocks({**options, "encoder_layers": layer}, batch_norm)
        there = positions_as_here(weights, batch_norm, str(path))
        load_strictly(model, there, path, str if batch_norm else name_in_file)
        given = os.fspath(checkpoint)
        super().__init__(
            model,
            FrameGrid(tuple((conv.kernel_size[0], conv.stride[0]) for conv, _ in model.stages)),
            dim=options["encoder_embed_dim"],
            sample_rate=int(task["sample_rate"]),
            normalize=bool(task["normalize"]),
            identity={"layer": layer, "normalize": bool(task["normalize"]), "weights": digest},
            options={
                "checkpoint": os.path.abspath(given) if os.path.exists(given) else given,
                "layer": layer,
                "chunk_seconds": chunk_seconds,
                "context_seconds": context_seconds,
            },
        )


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
        raise InputError(
            f"{path} has neither cfg nor args with the model's options: a checkpoint of fairseq is expected"
        )
    if kind is not None and not kinds.fullmatch(str(kind)):
        raise InputError(f"{path} is of the model {kind}, a hubert (pre-trained, not fine-tuned) is expected")
    options = {name: _value(model.get(name), default) for name, default in _defaults().items()}
    if options["layer_type"] != "transformer" or options["pos_conv_depth"] != 1:
        depth, blocks = options["pos_conv_depth"], options["layer_type"]
        raise InputError(
            f"{path} has {depth} positional convolutions and {blocks} blocks: 1 and transformer are expected"
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
