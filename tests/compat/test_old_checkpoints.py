"""Checkpoints as fairseq wrote them in other years: options as a Namespace, as OmegaConf, integers as floats."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

pytestmark = pytest.mark.commands

OPTIONS: dict[str, Any] = {
    "task": "language_modeling",
    "arch": "transformer_lm",
    "criterion": "cross_entropy",
    "optimizer": "adam",
    "lr_scheduler": "fixed",
    "tokens_per_sample": 32,
    "sample_break_mode": "eos",
    "decoder_layers": 1,
    "decoder_embed_dim": 16,
    "decoder_input_dim": 16,
    "decoder_output_dim": 16,
    "decoder_ffn_embed_dim": 32,
    "decoder_attention_heads": 2,
    "max_update": 250000,
    "lr": [0.01],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    (folder / "dict.txt").write_text("".join(f"{unit} 1\n" for unit in range(12)))
    return folder


@cache
def _weights(data: Path) -> dict[str, torch.Tensor]:
    from fairseq import tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    cfg = convert_namespace_to_omegaconf(argparse.Namespace(data=str(data), **OPTIONS))
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = tasks.setup_task(cfg.task).build_model(cfg.model).state_dict()
    return state


def _options(data: Path, year: int) -> dict[str, Any]:
    """The part of a checkpoint that holds options, as it was in that year."""
    options = {"data": str(data), **OPTIONS}
    floats = {name: float(value) if isinstance(value, int) else value for name, value in options.items()}
    if year == 2019:
        return {"args": argparse.Namespace(**options)}
    if year == 2020:
        return {"args": argparse.Namespace(**floats)}
    parts: dict[str, Any] = {
        "task": {"_name": "language_modeling", "data": str(data), "tokens_per_sample": 32.0},
        "model": {"_name": "transformer_lm", **{name: value for name, value in floats.items() if "decoder" in name}},
        "optimization": {"max_update": 250000.0},
        "generation": {"print_alignment": False},
    }
    return {"args": None, "cfg": OmegaConf.create(parts) if year == 2021 else parts}


@pytest.mark.parametrize(("year", "new_format"), [(2019, False), (2020, True), (2021, False), (2022, True)])
def test_an_old_checkpoint_gives_its_model(data: Path, year: int, new_format: bool) -> None:
    """In torch's format of before 2020, or in today's."""
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    weights = _weights(data)
    state = {
        **_options(data, year),
        "model": weights,
        "optimizer_history": [
            {"criterion_name": "C", "optimizer_name": "A", "lr_scheduler_state": {}, "num_updates": 5}
        ],
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 1.0},
        "last_optimizer_state": {},
    }
    path = data / "old.pt"
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    (model,), cfg, task = load_model_ensemble_and_task([str(path)])
    found = model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())
    assert len(task.dictionary) == 16
    assert cfg.optimization.max_update == 250000


def test_only_whole_floats_become_integers(data: Path) -> None:
    from fairseq.dataclass.utils import merge_with_parent
    from fairseq.tasks.language_modeling import LanguageModelingConfig

    cfg = OmegaConf.create({"_name": "language_modeling", "tokens_per_sample": 32.0, "shorten_method": "none"})
    assert merge_with_parent(LanguageModelingConfig(), cfg).tokens_per_sample == 32
    with pytest.raises(Exception, match="could not be converted to Integer"):
        merge_with_parent(LanguageModelingConfig(), OmegaConf.create({"tokens_per_sample": 32.5}))
