"""fairseq's checkpoints of unit language models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from speechdlm_ext.checkpoints.model_state import KINDS, ModelState, option_names
from speechdlm_ext.criterions.unit_lm_criterion import UnitLMCriterionConfig
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.tasks.unit_language_modeling import DEFAULT_FRAME_RATE, UnitLanguageModelingConfig

TASK = "unit_language_modeling"


def is_fairseq(state: Mapping[str, Any]) -> bool:
    """Whether a file holds a checkpoint of fairseq-train."""
    return bool({"cfg", "args"} & state.keys()) and "model" in state


def checkpoint_state(
    cfg: DictConfig, weights: Mapping[str, Tensor], task_state: dict[str, Any], criterion: str, optimizer: str
) -> dict[str, Any]:
    """What fairseq-train saves of a model, without the state of its training.

    Args:
        criterion, optimizer: names of the classes, by which fairseq knows whether training goes on with the same.
    """
    history = {
        "criterion_name": criterion, "optimizer_name": optimizer, "lr_scheduler_state": {"best": None},
        "num_updates": 0,
    }  # fmt: skip
    return {
        "args": None,
        "cfg": cfg,
        "model": dict(weights),
        "criterion": None,
        "optimizer_history": [history],
        "task_state": task_state,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
        "last_optimizer_state": None,
    }


def fairseq_state(model: ModelState) -> dict[str, Any]:
    """What fairseq-train would have saved of this model, without the state of its training."""
    options = {"_name": model.kind, **model.options, "durations": model.durations}
    task = _defaults(UnitLanguageModelingConfig(), _name=TASK, units=model.units, durations=model.durations, seed=1)
    criterion = _defaults(UnitLMCriterionConfig(), _name="unit_lm_criterion", sentence_avg=False)
    cfg = OmegaConf.create({"task": task, "model": options, "criterion": criterion})
    OmegaConf.set_struct(cfg, True)
    return checkpoint_state(cfg, model.weights, {"units": model.units}, "UnitLMCriterion", "FairseqAdam")


def from_fairseq(state: Mapping[str, Any], path: str) -> ModelState:
    """Read what fairseq-train saved; raises :class:`InputError` for another model, or without its weights."""
    state = checkpoint_utils._upgrade_state_dict(_with_options(dict(state)))
    kind = state["cfg"].model.get("_name") or state["cfg"].model.get("arch", "")
    known = next((own for own in KINDS if kind == own or str(kind).startswith(f"{own}_")), None)
    if known is None:
        raise InputError(f"{path}: a model {kind}, {' or '.join(KINDS)} is expected")
    model = state["cfg"].model
    options = {name: model[name] for name in option_names(known) if name in model}
    weights = dict(state["model"])
    output = weights.get("decoder.output.weight")
    if output is None:
        raise InputError(f"{path} has no weights decoder.output.weight: it is damaged")
    return ModelState(known, len(output) - 1, options, weights, _frame_rate(state))


def _with_options(state: dict[str, Any]) -> dict[str, Any]:
    """The options as fairseq's upgrade wants them."""
    if state.get("cfg") is not None and not isinstance(state["cfg"], DictConfig):
        state["cfg"] = OmegaConf.create(state["cfg"])
    return state


def _frame_rate(state: Mapping[str, Any]) -> float | None:
    """Of the data that a model was trained on, as the task takes it."""
    task = state["cfg"].get("task") or {}
    return task.get("frame_rate") or (DEFAULT_FRAME_RATE if task.get("durations") else None)


def _defaults(config: Any, **values: Any) -> dict[str, Any]:
    """The options of a config class that are not taken from others, and ``values``."""
    plain = {option.name: getattr(config, option.name) for option in fields(config)}
    return {name: value for name, value in {**plain, **values}.items() if not str(value).startswith("${")}


def write_fairseq(state: ModelState, target: Path, where: str) -> list[Path]:
    """Write a checkpoint for fairseq's commands; returns the files."""
    with atomic_write(target, "wb") as file:
        torch.save(fairseq_state(state), file)
    return [target]
