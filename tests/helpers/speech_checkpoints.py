"""Small checkpoints in the forms of the published ones, and what their models give, computed another way."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq.models.hubert  # noqa: F401
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.modules import SamePad
from omegaconf import OmegaConf
from torch import nn

CONVOLUTIONS = "[(24,10,5)] + [(24,3,2)] * 4 + [(24,2,2)] * 2"
BASE = {"encoder_layers": 4, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4} | {
    "conv_feature_layers": CONVOLUTIONS,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "final_dim": 16,
    "label_rate": 50.0,
}
LARGE = {**BASE, "extractor_mode": "layer_norm", "layer_norm_first": True, "untie_final_proj": True}
AT_25_HZ = {**BASE, "conv_feature_layers": CONVOLUTIONS + " + [(24,2,2)]"}


def hubert(seed: int, batch_norm: bool = False, **options: Any) -> HubertModel:
    """fairseq's own model with random weights, none of which is as it is by default."""
    torch.manual_seed(seed)
    config = HubertConfig()
    for name, value in options.items():
        setattr(config, name, value)
    dictionary = Dictionary()
    for unit in range(7):
        dictionary.add_symbol(str(unit))
    model = HubertModel(config, SimpleNamespace(sample_rate=16000), [dictionary, dictionary])
    if batch_norm:  # as fairseq builds it since 2023
        dim, kernel = config.encoder_embed_dim, config.conv_pos
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=config.conv_pos_groups)
        model.encoder.pos_conv = nn.Sequential(nn.BatchNorm1d(dim), conv, SamePad(kernel), nn.GELU())
        model.encoder.pos_conv[0].running_mean.normal_()
        model.encoder.pos_conv[0].running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def save_hubert(
    path: Path, model: HubertModel, options: dict[str, Any], normalize: bool = False, form: str = "cfg"
) -> Path:
    """As fairseq-train saves it; options as ``cfg``, which was OmegaConf's own at first, or, until 2020, as ``args``.

    Numbers are floats in ``args``, as they are in files that have been through JSON.
    """
    task = {"_name": "hubert_pretraining", "data": "/gone", "labels": ["km"], "sample_rate": 16000} | {
        "normalize": normalize,
        "label_rate": 50,
    }
    cfg = {"_name": None, "model": {"_name": "hubert", **options}, "task": task, "common": {"fp16": True}}
    floats = {name: float(value) if type(value) is int else value for name, value in options.items()}
    args = Namespace(arch="hubert", **{**task, **floats, "task": "hubert_pretraining"})
    saved: Any = cfg if form == "cfg" else None
    if form == "omegaconf":
        saved = OmegaConf.create(cfg)
        saved.model.label_rate, saved.task.data = "${task.label_rate}", "???"
    torch.save(
        {
            "args": args if form == "args" else None,
            "cfg": saved,
            "model": model.state_dict(),
            "criterion": None,
            "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 1}],
            "task_state": {"dictionaries": [Dictionary()]},
            "extra_state": {"epoch": 1},
        },
        path,
    )
    return path


def hubert_features(model: HubertModel, wave: torch.Tensor, layer: int, normalize: bool = False) -> torch.Tensor:
    """Features (T, D) of one channel (N,) by fairseq's own forward pass."""
    with torch.no_grad():
        wave = F.layer_norm(wave, wave.shape) if normalize else wave
        return model.extract_features(wave[None], mask=False, output_layer=layer)[0][0]


WAVLM_CFG = {
    "extractor_mode": "layer_norm",
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 16,
    "activation_fn": "gelu",
    "layer_norm_first": True,
    "conv_feature_layers": CONVOLUTIONS,
    "conv_bias": False,
    "conv_pos": 16,
    "conv_pos_groups": 16,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
    "normalize": True,
}
# Sizes of WavLM-Large, and those here. Of (1024, 64, 128), the 64 is a group's width.
_SMALL = {512: 24, 1024: 32, 4096: 48, 128: 16, 64: 2}


def wavlm_weights(listing: Path, seed: int, layers: int = 3) -> dict[str, torch.Tensor]:
    """Random weights under the names of WavLM-Large, with its first blocks, scaled down."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for line in listing.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        name, shape, _ = line.split("\t")
        block = name.split(".")[2] if name.startswith("encoder.layers.") else "0"
        if int(block) < layers:
            sizes = [int(size) for size in shape.strip("(),").split(",")]
            weight = torch.randn([_SMALL.get(size, size) for size in sizes], generator=generator)
            weights[name] = 1 + 0.3 * weight if "norm" in name or "grep_a" in name else weight * 0.3
    return weights


def wavlm_features(weights: dict[str, torch.Tensor], wave: torch.Tensor, layer: int) -> torch.Tensor:
    """Features (T, D) of one channel (N,), from the formulas of the paper (section 3.1) and the published names."""
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])  # noqa: E731
    linear = lambda x, name: F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])  # noqa: E731
    x = wave[None]
    for number, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        name = f"feature_extractor.conv_layers.{number}"
        x = F.conv1d(x, weights[f"{name}.0.weight"], stride=stride)
        x = F.gelu(norm(x.T, f"{name}.2.1").T)
    x = linear(norm(x.T, "layer_norm"), "post_extract_proj")
    frames, dim = x.shape
    direction = weights["encoder.pos_conv.0.parametrizations.weight.original1"]
    length = weights["encoder.pos_conv.0.parametrizations.weight.original0"]
    kernel = direction / direction.square().sum((0, 1), keepdim=True).sqrt() * length
    positions = F.conv1d(x.T, kernel, weights["encoder.pos_conv.0.bias"], padding=8, groups=16)[:, :frames]
    x = x + F.gelu(positions).T
    table = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    bias = torch.stack([table[[_bucket(j - i) for j in range(frames)]] for i in range(frames)]).permute(2, 0, 1)
    heads, width = 16, dim // 16
    split = lambda y: y.view(frames, heads, width).transpose(0, 1)  # noqa: E731
    for number in range(layer):
        name = f"encoder.layers.{number}"
        y = norm(x, f"{name}.self_attn_layer_norm")
        gates = linear(split(y), f"{name}.self_attn.grep_linear").view(heads, frames, 2, 4).sum(-1).sigmoid()
        update, reset = gates[..., :1], gates[..., 1:]
        gate = update * (reset * weights[f"{name}.self_attn.grep_a"][0] - 1) + 2
        q, k, v = (split(linear(y, f"{name}.self_attn.{part}_proj")) for part in "qkv")
        attention = (q @ k.transpose(1, 2) / math.sqrt(width) + gate * bias).softmax(-1)
        x = x + linear((attention @ v).transpose(0, 1).reshape(frames, dim), f"{name}.self_attn.out_proj")
        y = F.gelu(linear(norm(x, f"{name}.final_layer_norm"), f"{name}.fc1"))
        x = x + linear(y, f"{name}.fc2")
    return x


def _bucket(distance: int, buckets: int = 320, furthest: int = 800) -> int:
    """Half of the buckets for each direction; of these, half for each small distance, the rest by logarithm."""
    half, exact, far = buckets // 2, buckets // 4, abs(distance)
    if far >= exact:
        far = exact + int(math.log(far / exact) / math.log(furthest / exact) * (half - exact))
    return min(far, half - 1) + (half if distance > 0 else 0)
