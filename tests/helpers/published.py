"""Outputs of the published SpeechDLM code, and toy models to compare with independent computations."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from torch import Tensor

import speechdlm_ext.plugin  # noqa: F401 - registers
from speechdlm_ext.criterions.speech_dlm_criterion import SpeechDLMCriterion
from speechdlm_ext.data.channel_dictionary import ChannelDictionary
from speechdlm_ext.data.dialogue_dataset import run_durations
from speechdlm_ext.data.unit_counts import edge_fields
from speechdlm_ext.models.speech_dlm import SpeechDLM, SpeechDLMConfig
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask

CHANNELS = ("unitA", "unitB")
VARIANTS = ("A", "C")  # edge and delayed duration; the same with each channel predicting the other as well


@lru_cache(maxsize=4)
def load(reference: Path, variant: str) -> tuple[SpeechDLM, SpeechDLMTask, Any]:
    """Model, task and criterion of a reference checkpoint, over the reference data."""
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(reference / variant / "model.pt")], arg_overrides={"data": str(reference / "bin")}, strict=True
    )
    return models[0].eval(), task, task.build_criterion(cfg.criterion).eval()


def batch(reference: Path, variant: str, name: str) -> tuple[dict[str, Any], Any]:
    """A reference batch in our form, and the published arrays. Targets follow from the edges and their units."""
    arrays = np.load(reference / variant / f"batch_{name}.npz")
    source = torch.from_numpy(np.stack([arrays[f"src_{channel}"] for channel in CHANNELS], -1))
    lengths = torch.from_numpy(arrays["src_lengths"])
    target, durations = torch.ones_like(source), torch.zeros_like(source)
    for c, channel in enumerate(CHANNELS):
        edges = arrays[f"target_edge_indices_{channel}"]
        rows, frames = np.unravel_index(edges, source.shape[:2])
        durations[rows, frames, c] = torch.from_numpy(arrays[f"target_duration_{channel}"])
        for i, (row, frame) in enumerate(zip(rows, frames, strict=True)):
            last = i + 1 == len(rows) or rows[i + 1] != row
            end = int(lengths[row]) if last else frames[i + 1]
            target[row, frame:end, c] = int(arrays[f"target_edge_{channel}"][i])
    sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}, "target": target, "durations": durations}
    return {**sample, **edge_fields(target, durations, 1)}, arrays


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def toy_dictionary(channels: int = 2, units: int = 20) -> ChannelDictionary:
    dictionaries = []
    for _ in range(channels):
        dictionary = Dictionary()
        for unit in range(units):
            dictionary.add_symbol(str(unit))
        dictionaries.append(dictionary)
    return ChannelDictionary([f"unit{letter}" for letter in "ABCDEF"[:channels]], dictionaries)


def toy_model(channels: int = 2, seed: int = 0, units: int = 20, **options: Any) -> SpeechDLM:
    """A small model with random weights, large enough that the positions differ."""
    torch.manual_seed(seed)
    defaults = {
        "decoder_embed_dim": 16,
        "decoder_ffn_embed_dim": 32,
        "decoder_layers": 3,
        "decoder_cross_layers": 2 if channels > 1 else 0,
        "decoder_attention_heads": 4,
        "dropout": 0.0,
        "tokens_per_sample": 64,
        "max_target_positions": None,
        "duration_prediction": "True",
        "delayed_duration_target": "True",
        "main_and_cross_weights": "1,0",
        "add_bos_token": False,
    }
    args = Namespace(**{**vars(SpeechDLMConfig()), **defaults, **options})
    dictionary = toy_dictionary(channels, units)
    model = SpeechDLM.build_model(args, SimpleNamespace(channels=dictionary.channels, source_dictionary=dictionary))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.decoder.embed_tokens.weight[1].zero_()
    return model.eval()


TARGETS = ["next", "edge", "duration"]


def toy_criterion(
    channels: int = 2, targets: list[str] = TARGETS, delayed: bool = True, **options: Any
) -> SpeechDLMCriterion:
    dictionary = toy_dictionary(channels)
    task = SimpleNamespace(
        channels=dictionary.channels,
        targets=targets,
        delayed_duration_target=delayed,
        channel_weights=options.pop("channel_weights", [1.0] * channels),
        target_dictionary=dictionary,
    )
    defaults = {
        "sentence_avg": False,
        "main_and_cross_weights": "1,0",
        "general_unit_loss_weight": 1.0,
        "edge_unit_loss_weight": 1.0,
        "duration_loss_weight": 1.0,
    }
    return SpeechDLMCriterion(task, **{**defaults, **options})


def toy_batch(lengths: list[int], channels: int = 2, seed: int = 0) -> dict[str, Any]:
    """Rows of random runs, padded on the right."""
    random = torch.Generator().manual_seed(seed)
    width = max(lengths)
    target = torch.ones(len(lengths), width, channels, dtype=torch.long)
    durations = torch.zeros_like(target)
    for row, length in enumerate(lengths):
        for c in range(channels):
            repeats = torch.randint(1, 5, (length + 4,), generator=random)
            units = torch.randint(4, 24, (length + 4,), generator=random).repeat_interleave(repeats)
            target[row, :length, c] = units[:length]
            durations[row, :length, c] = torch.from_numpy(run_durations(units.numpy(), length, 256))
    source = torch.cat([torch.full_like(target[:, :1], 2), target[:, :-1]], 1)
    source[target.eq(1)] = 1
    return sample_of(source, target, durations)


def sample_of(source: Tensor, target: Tensor, durations: Tensor) -> dict[str, Any]:
    fields = edge_fields(target, durations, pad=1)
    return {"net_input": {"src_tokens": source}, "target": target, "durations": durations, **fields}
