"""Checkpoints of the first SpeechDLM release: a criterion of another name, with other fields."""

import logging
from argparse import Namespace
from collections.abc import Callable, MutableMapping
from typing import Any

from fairseq import checkpoint_utils
from omegaconf import DictConfig, open_dict

logger = logging.getLogger(__name__)

# What `speech_dlm_base.pt` says (facebookresearch/fairseq#5041), and what its fields are called today.
CRITERION = "duration_cross_multichannel_cross_entropy"
WEIGHTS = {
    "general_loss_weight": "general_unit_loss_weight",
    "edge_loss_weight": "edge_unit_loss_weight",
    "duration_loss_weight": "duration_loss_weight",
}
KEPT = ("sentence_avg", "main_and_cross_weights")
# Said of the task today; counts only where the task says nothing.
OF_THE_TASK = {"include_edge_loss": "edge_unit_prediction", "shift_duration_target": "delayed_duration_target"}
# How the loss was summed and rounded; the published criterion has one way.
FORGOTTEN = ("normalize_edge_loss", "normalize_duration_loss", "round_duration_prediction")


def install() -> None:
    """Let fairseq upgrade such checkpoints as it does its own old ones; a second call does nothing."""
    original: Callable[[Any], Any] = checkpoint_utils._upgrade_state_dict
    if getattr(original, "_speechdlm_legacy", False):
        return

    def upgrade(state: dict[str, Any]) -> dict[str, Any]:
        if isinstance(state, dict):
            upgrade_options(state)
        return original(state)

    upgrade._speechdlm_legacy = True  # type: ignore[attr-defined]
    checkpoint_utils._upgrade_state_dict = upgrade


def upgrade_options(state: dict[str, Any]) -> None:
    """Rename what the options of a checkpoint call by its first name, in place; others are left as they are."""
    cfg, args = state.get("cfg"), state.get("args")
    if isinstance(args, Namespace) and getattr(args, "criterion", None) == CRITERION:
        options = vars(args)
        options.update(_criterion(options), criterion="speech_dlm_criterion")
        _fill_in(options, options)
    if isinstance(cfg, DictConfig) and "criterion" in cfg and _name(cfg.criterion) == CRITERION:
        logger.info("criterion %s is read as speech_dlm_criterion", CRITERION)
        with open_dict(cfg):
            old = dict(cfg.criterion)
            cfg.criterion = {"_name": "speech_dlm_criterion", **_criterion(old)}
            if "task" in cfg:
                _fill_in(cfg.task, old)


def _name(options: Any) -> Any:
    return options.get("_name") if isinstance(options, DictConfig) else None


def _criterion(old: MutableMapping[str, Any]) -> dict[str, Any]:
    """The fields of today's criterion from the old ones, which are taken out; those that are missing keep defaults."""
    fields = {name: old.pop(name) for name in KEPT if name in old}
    fields.update({today: old.pop(name) for name, today in WEIGHTS.items() if name in old})
    for name in FORGOTTEN:
        old.pop(name, None)
    return fields


def _fill_in(task: MutableMapping[str, Any], old: MutableMapping[str, Any]) -> None:
    for name, today in OF_THE_TASK.items():
        if name in old:
            value = str(old.pop(name))
            if today not in task:
                task[today] = value
