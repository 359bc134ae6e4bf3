"""WavLM as published by Microsoft, on torchaudio's architecture, as an encoder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.compat.fairseq.safe_eval import evaluate
from speechdlm_ext.encoders.chunking import FrameGrid, to_device
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
from speechdlm_ext.io.published import WAVLM, locate
from speechdlm_ext.modules.weight_norm import fold_weight_norm

Names = tuple[tuple[str, str], ...]
# Options that the published code takes where a checkpoint does not say.
_DEFAULTS: dict[str, Any] = {
    "extractor_mode": "default",
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": False,
    "num_buckets": 320,
    "max_distance": 1280,
    "gru_rel_pos": False,
}
# Prefixes of weights' names: in the checkpoint, and in torchaudio's model.
_BLOCK, _TORCHAUDIO_BLOCK = "encoder.layers.{}.", "encoder.transformer.layers.{}."
_NAMES = (
    ("feature_extractor.conv_layers.{}.0.", "feature_extractor.conv_layers.{}.conv."),
    ("layer_norm.", "encoder.feature_projection.layer_norm."),
    ("post_extract_proj.", "encoder.feature_projection.projection."),
    ("encoder.pos_conv.0.", "encoder.transformer.pos_conv_embed.conv."),
    ("encoder.layer_norm.", "encoder.transformer.layer_norm."),
    *(
        (_BLOCK + name, _TORCHAUDIO_BLOCK + torchaudio)
        for name, torchaudio in (
            ("self_attn.in_proj_", "attention.attention.in_proj_"),
            ("self_attn.out_proj.", "attention.attention.out_proj."),
            ("self_attn.relative_attention_bias.", "attention.rel_attn_embed."),
            ("self_attn.grep_linear.", "attention.gru_rel_pos_linear."),
            ("self_attn.grep_a", "attention.gru_rel_pos_const"),
            ("self_attn_layer_norm.", "layer_norm."),
            ("fc1.", "feed_forward.intermediate_dense."),
            ("fc2.", "feed_forward.output_dense."),
            ("final_layer_norm.", "final_layer_norm."),
        )
    ),
)
_CONVOLUTION_NORMS = {
    "layer_norm": ("feature_extractor.conv_layers.{}.2.1.", "feature_extractor.conv_layers.{}.layer_norm."),
    "default": ("feature_extractor.conv_layers.{}.2.", "feature_extractor.conv_layers.{}.layer_norm."),
}
# What pre-training needs beside the encoder.
_SPARE = re.compile(r"(mask_emb$|label_embs_concat$|final_proj\.)")


class WavLMEncoder(PretrainedEncoder):
    """The output of one block of WavLM (Chen et al., 2022); of the 11th of WavLM-Large for the units of DP-SLM.

    With ``padding=40`` zeros on both sides ``N`` samples give ``N // 320`` frames, without ``(N - 400) // 320 + 1``.
    The norm after the last block is not applied; blocks after ``layer`` are neither run nor kept. The published
    codebooks are of sound that was not normalized, although WavLM-Large was trained on sound that was.

    Args:
        checkpoint: Microsoft's file, ``{"cfg", "model"}``, or ``wavlm-large``, which is fetched when it is not in the
            cache.
        layer: the block, from 1.
        normalize: bring each channel, as a whole, to mean 0 and variance 1 first.
        padding: zeros on both sides, in samples.
        chunk_seconds: how much of a long recording is kept of one window. Attention takes memory by its square: 0.4 GB
            for each intermediate result of WavLM-Large with the 50 s that a window has by default.
        context_seconds: how much more of it the window sees on either side.

    Raises:
        InputError: the file is missing, or is not a WavLM whose every weight is there; there is no such layer.
    """

    name = "wavlm"

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] = "wavlm-large",
        layer: int = 11,
        normalize: bool = False,
        padding: int = 40,
        chunk_seconds: float = 40.0,
        context_seconds: float = 5.0,
    ) -> None:
        if not isinstance(padding, int) or not 0 <= padding < 400:
            raise InputError(f"padding {padding}: 0 to 399 samples are expected")
        path = locate(checkpoint, WAVLM)
        state, weights = read_weights(path)
        options = read_options(state, path)
        layer = check_layer(layer, options["encoder_layers"], path)
        if has_batch_norm(weights, path):
            raise InputError(f"{path} has a batch norm before its positional convolution, which no WavLM has")
        weights = needed_weights(weights, layer, options["encoder_layers"], _SPARE)
        digest = digest_weights(weights, {**options, "encoder_layers": layer})
        model = WavLMBlocks({**options, "encoder_layers": layer})
        names = names_of(options)
        load_strictly(model, as_torchaudio(weights, names, path), path, lambda name: name_in_file(name, names))
        given = os.fspath(checkpoint)
        super().__init__(
            model,
            FrameGrid(tuple((conv.kernel_size[0], conv.stride[0]) for conv, _ in model.stages), padding),
            dim=options["encoder_embed_dim"],
            sample_rate=16000,
            normalize=bool(normalize),
            identity={"layer": layer, "normalize": bool(normalize), "padding": padding, "weights": digest},
            options={
                "checkpoint": os.path.abspath(given) if os.path.exists(given) else given,
                "layer": layer,
                "normalize": bool(normalize),
                "padding": padding,
                "chunk_seconds": chunk_seconds,
                "context_seconds": context_seconds,
            },
        )


class WavLMBlocks(SpeechModel):
    """The first blocks of torchaudio's WavLM, with the weight norm of the positional convolution folded.

    Args:
        options: of the checkpoint, ``encoder_layers`` being how many blocks to make.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        from torchaudio.models import wavlm_model

        whole = wavlm_model(
            extractor_mode="layer_norm" if options["extractor_mode"] == "layer_norm" else "group_norm",
            extractor_conv_layer_config=evaluate(options["conv_feature_layers"]),
            extractor_conv_bias=options["conv_bias"],
            encoder_embed_dim=options["encoder_embed_dim"],
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=options["conv_pos"],
            encoder_pos_conv_groups=options["conv_pos_groups"],
            encoder_num_layers=options["encoder_layers"],
            encoder_num_heads=options["encoder_attention_heads"],
            encoder_num_buckets=options["num_buckets"],
            encoder_max_distance=options["max_distance"],
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=options["encoder_ffn_embed_dim"],
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=options["layer_norm_first"],
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
        super().__init__([(layer.conv, layer.layer_norm) for layer in whole.feature_extractor.conv_layers])
        self.feature_extractor = whole.feature_extractor
        self.encoder = whole.encoder
        conv = self.encoder.transformer.pos_conv_embed.conv
        torch.nn.utils.parametrize.remove_parametrizations(conv, "weight")
        self._by_distance = torch.zeros(0)  # (H, 2 F - 1), on the device of the weights
        self._bias = torch.zeros(0)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder.feature_projection(x)

    def positions(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        return self.encoder.transformer.pos_conv_embed(x)

    def transform(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        transformer = self.encoder.transformer
        if transformer.layer_norm_first:  # as torchaudio calls it: there is a norm before the first block
            x = transformer.layer_norm(x)
        bias = self._position_bias(x)
        if padding is not None:
            padding = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))
        for block in transformer.layers:
            x, _ = block(x, position_bias=bias, key_padding_mask=padding)
        return x

    def _position_bias(self, x: torch.Tensor) -> torch.Tensor:
        """The bias (1, H, T, T) of attention by distance, before each block's gate.

        torchaudio makes it anew for each batch, on the CPU and once for each row (its issue 4176: seconds from some
        hundred frames on). It depends on the distance alone: 2 F - 1 values, bucketed once for the longest sounds so
        far, give it for all T up to F, on the device. The last one is kept.
        """
        frames, weight = x.shape[1], self.encoder.transformer.layers[0].attention.rel_attn_embed.weight
        longest = (self._by_distance.shape[-1] + 1) // 2
        if frames > longest or self._by_distance.device != x.device:
            attention, longest = self.encoder.transformer.layers[0].attention, max(2 * longest, frames)
            distances = torch.arange(1 - longest, longest)  # bucketed on the CPU, to be the same on every device
            buckets = to_device(attention._relative_positions_bucket(distances), x.device)
            self._by_distance = weight.detach()[buckets].T.contiguous()
            self._bias = torch.zeros(0)
        kept = self._bias
        if (kept.shape[-1], kept.device, kept.dtype) != (frames, x.device, x.dtype):
            self._bias = kept = torch.zeros(0)  # the old one goes first: it may be large
            values = self._by_distance[:, longest - frames : longest + frames - 1].to(x.dtype)
            # Row i of the table is what begins T - 1 - i values in.
            self._bias = kept = values.unfold(1, frames, 1).flip(1)[None]
        return kept

    def compute_in(self, device: torch.device, dtype: torch.dtype) -> None:
        self._by_distance = self._bias = torch.zeros(0)
        super().compute_in(device, dtype)


def read_options(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The model's options: what the checkpoint says, and the published code's defaults for what it does not.

    Raises:
        InputError: it says nothing, or is of another kind of model.
    """
    cfg = state.get("cfg")
    if not isinstance(cfg, Mapping):
        raise InputError(f"{path} has no cfg with the model's options: a checkpoint of WavLM is expected")
    options = {name: type(default)(cfg.get(name, default)) for name, default in _DEFAULTS.items()}
    if not (options["relative_position_embedding"] and options["gru_rel_pos"]) or options["activation_fn"] != "gelu":
        raise InputError(f"{path} is not of a WavLM with gated relative positions and gelu: it is of another model")
    return options


def names_of(options: Mapping[str, Any]) -> Names:
    """Prefixes of weights' names, in the checkpoint and in torchaudio's model."""
    return (_CONVOLUTION_NORMS["layer_norm" if options["extractor_mode"] == "layer_norm" else "default"], *_NAMES)


def as_torchaudio(weights: Weights, names: Names, path: Path) -> Weights:
    """The weights under torchaudio's names, with query, key and value of each block in one."""
    joined = fold_weight_norm(weights, str(path))
    for name in [name for name in joined if ".q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        missing = [part for part in parts if part not in joined]
        if missing:
            raise InputError(f"{path} has no weights {', '.join(missing)}: it is of another model, or is damaged")
        joined[name.replace(".q_proj.", ".in_proj_")] = torch.cat([joined.pop(part) for part in parts])
    return {_rename(name, names): value for name, value in joined.items()}


def name_in_file(name: str, names: Names) -> str:
    """The name, for messages, that a weight of torchaudio's has in the checkpoint."""
    name = _rename(name, tuple((there, here) for here, there in names))
    return re.sub(r"\.in_proj_(\w+)$", r".q_proj.\1, k_proj.\1 and v_proj.\1", name)


def _rename(name: str, names: Names) -> str:
    for old, new in names:
        found = re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), name)
        if found:
            return new.format(*found.groups()) + name[found.end() :]
    return name
