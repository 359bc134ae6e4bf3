"""Small unit HiFi-GANs in the published form, with weights of a size that makes their sound heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fairseq  # noqa: F401 - first
import torch
from fairseq.models.text_to_speech.codehifigan import CodeGenerator
from torch import Tensor, nn

DURATIONS = {
    "encoder_embed_dim": 8,
    "var_pred_hidden_dim": 8,
    "var_pred_kernel_size": 3,
    "var_pred_dropout": 0.5,
}


def published_config(units: int = 50, speakers: int = 0, styles: int = 0, durations: bool = False) -> dict[str, Any]:
    """Options as published, at a 32nd of the width; the same upsampling, kernels and dilations."""
    config: dict[str, Any] = {
        "resblock": "1",
        "upsample_rates": [5, 4, 4, 2, 2],
        "upsample_kernel_sizes": [11, 8, 8, 4, 4],
        "upsample_initial_channel": 32,
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "num_embeddings": units,
        "embedding_dim": 8,
        "model_in_dim": 8 * (1 + bool(speakers) + bool(styles)),
        "segment_size": 8960,
        "code_hop_size": 320,
        "sampling_rate": 16000,
        "f0": False,
    }
    if speakers:
        config["multispkr"] = "from_input_file"
    if styles:
        config["multistyle"] = "from_input_file"
    if durations:
        config["dur_predictor_params"] = DURATIONS
    return config


def published_weights(config: dict[str, Any], speakers: int = 0, styles: int = 0, seed: int = 1) -> dict[str, Tensor]:
    """``weight_g`` and ``weight_v`` of fairseq's own generator, and a table of styles, which it does not have."""
    torch.manual_seed(seed)
    full = {**config, "num_speakers": speakers} if speakers else config
    generator = CodeGenerator(full)
    for name, parameter in generator.named_parameters():
        if name.endswith("weight_g"):  # lengths near 1 neither swallow the sound nor blow up errors of rounding
            nn.init.uniform_(parameter, 0.5, 1.0)
            parameter.data *= 300 if "post" in name else 1
        elif name.endswith(("weight_v", ".bias")) and "dur_predictor" not in name:
            nn.init.normal_(parameter, std=0.1)
    weights = {name: tensor.detach().clone() for name, tensor in generator.state_dict().items()}
    if styles:
        weights["style.weight"] = torch.randn(styles, config["embedding_dim"])
    return weights


def write(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], **names: list[str]) -> Path:
    """A folder with ``generator.pt``, ``config.json`` and, for each keyword, ``<keyword>.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"generator": weights}, folder / "generator.pt")
    (folder / "config.json").write_text(json.dumps(config))
    for kind, lines in names.items():
        (folder / f"{kind}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder / "generator.pt"


def fairseq_sound(
    config: dict[str, Any], weights: dict[str, Tensor], units: Tensor, speaker: int | None, style: int | None
) -> Tensor:
    """Sound (N,) of units (T,) by fairseq's own forward, a style given as a further input, as its code allows."""
    own = {name: tensor for name, tensor in weights.items() if name != "style.weight"}
    full = {**config, "num_speakers": len(own["spkr.weight"])} if "spkr.weight" in own else config
    generator = CodeGenerator(full).eval()
    generator.load_state_dict(own, strict=True)
    inputs: dict[str, Any] = {"code": units[None]}
    if speaker is not None:
        inputs["spkr"] = torch.tensor([[speaker]])
    if style is not None:
        inputs["style"] = weights["style.weight"][style][None, :, None]
    with torch.no_grad():
        sound: Tensor = generator(**inputs)[0, 0]
    return sound
