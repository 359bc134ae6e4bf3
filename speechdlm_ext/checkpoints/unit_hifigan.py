"""Vocoders from checkpoints of fairseq-train, in the form in which vocoders are published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils

from speechdlm_ext.errors import InputError
from speechdlm_ext.models.unit_hifigan import UnitHiFiGAN, generator_config
from speechdlm_ext.vocoders.hifigan_files import write_vocoder

_GENERATOR = "generator."


def export_vocoder(checkpoint: str | os.PathLike[str], folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write the generator of a trained ``unit_hifigan`` as ``generator.pt`` and ``config.json`` (and ``speakers.txt``).

    ``config.json`` also names the codebook by its fingerprint, so that units of another one are refused.

    Args:
        checkpoint: of ``fairseq-train --task unit_hifigan_task``.
        folder: where to write.
        overwrite: replace a vocoder that is there.

    Returns:
        ``folder/generator.pt``.

    Raises:
        InputError: the checkpoint is not of such a model or has other weights, or a vocoder is there already.
    """
    if not os.path.isfile(checkpoint):
        raise InputError(f"{checkpoint}: no such checkpoint")
    state = checkpoint_utils.load_checkpoint_to_cpu(os.fspath(checkpoint))
    try:
        cfg, weights, facts = state["cfg"], state["model"], state.get("task_state") or {}
        task, model = cfg.task._name, cfg.model
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{checkpoint}: not a checkpoint of fairseq-train") from None
    if task != "unit_hifigan_task":
        raise InputError(f"{checkpoint}: of the task {task}, unit_hifigan_task is expected")
    own = {
        name.removeprefix(_GENERATOR): tensor.float() for name, tensor in weights.items() if name.startswith(_GENERATOR)
    }
    speakers = [str(name) for name in facts.get("speakers") or []]
    config: dict[str, Any] = generator_config(model, len(own["dict.weight"]), len(speakers), cfg.task.sample_rate)
    UnitHiFiGAN(config).generator.load_state_dict(own, strict=True)
    if facts.get("codebook"):
        config["codebook"] = facts["codebook"]
    return write_vocoder(folder, own, config, speakers, overwrite)
