"""The model of WavLM: torchaudio's, as many blocks as are needed, and the options and names of published files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.compat.fairseq.safe_eval import evaluate
from speechdlm_ext.encoders.model_weights import Weights
from speechdlm_ext.encoders.speech_model import SpeechModel
from speechdlm_ext.errors import InputError
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
        self._bias: torch.Tensor | None = None

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder.feature_projection(x)

    def positions(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        return self.encoder.transformer.pos_conv_embed(x)

    def transform(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        transformer = self.encoder.transformer
        if transformer.layer_norm_first:  # torchaudio's word for: the norm stands before the first block
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
        hundred frames on). It depends on the distance alone, so that 2 T - 1 values tell it, and the last is kept.
        """
        frames, kept = x.shape[1], self._bias
        if kept is None or (kept.shape[-1], kept.device, kept.dtype) != (frames, x.device, x.dtype):
            self._bias = None  # the old one goes first: it may be large
            attention = self.encoder.transformer.layers[0].attention
            distances = torch.arange(1 - frames, frames)  # bucketed on the CPU, to be the same on every device
            buckets = attention._relative_positions_bucket(distances).to(x.device)
            by_distance = attention.rel_attn_embed(buckets).T.to(x.dtype)
            # Row i of the table is what begins T - 1 - i values in.
            kept = self._bias = by_distance.unfold(1, frames, 1).flip(1)[None]
        return kept


def read_options(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The model's options: what the checkpoint says, and the published code's defaults for what it does not.

    Raises:
        InputError: it says nothing, or is of another kind of model.
    """
    cfg = state.get("cfg")
    if not isinstance(cfg, Mapping):
        raise InputError(f"{path} has no cfg with the model's options: a checkpoint of WavLM is wanted")
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
