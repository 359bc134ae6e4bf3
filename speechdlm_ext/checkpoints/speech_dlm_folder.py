"""A trained model as a folder without pickles: options as JSON, weights as safetensors, dictionaries as text.

::

    config.json  dict.unitA.txt  dict.unitB.txt  model.safetensors
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from speechdlm_ext.checkpoints.pretrained_folder import (
    CONFIG,
    WEIGHTS,
    check_keys,
    read_config,
    read_weights,
    write_model,
)
from speechdlm_ext.checkpoints.weights import check_weights
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.models.speech_dlm import SpeechDLM, SpeechDLMConfig
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask, SpeechDLMTaskConfig

# What belongs to a run and not to the model, and what it is when the model is read.
OF_A_RUN: dict[str, Any] = {"data": None, "seed": 1, "dataset_impl": None, "data_buffer_size": 10, "tpu": False}
OPTIONS = {
    part: [option.name for option in fields(config) if option.name not in ("_name", *OF_A_RUN)]
    for part, config in (("task", SpeechDLMTaskConfig), ("model", SpeechDLMConfig))
}


def is_saved_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether there are options of a saved model."""
    return (Path(folder) / CONFIG).is_file()


def save_folder(folder: str | os.PathLike[str], model: SpeechDLM, task: SpeechDLMTask, overwrite: bool = False) -> None:
    """Write a model, its options and its dictionaries.

    Raises:
        InputError: there is a model already, and not ``overwrite``.
    """
    dictionaries = zip(task.channels, task.dictionary.dictionaries, strict=True)
    config = {
        "model_type": "speech_dlm",
        "task": {**_plain(task.cfg, OPTIONS["task"]), "channels": ",".join(task.channels)},
        "model": _plain(model.decoder.args, OPTIONS["model"]),
    }
    files = {f"dict.{channel}.txt": dictionary.save for channel, dictionary in dictionaries}
    write_model(Path(folder), model, config, files, overwrite)


def load_folder(
    folder: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> tuple[SpeechDLM, SpeechDLMTask]:
    """Read what :func:`save_folder` wrote, without running any code from it.

    Args:
        overrides: options of the task or the model to change.

    Raises:
        InputError: a file is missing or cut short, or one does not fit another.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    for name, value in (overrides or {}).items():
        parts = [part for part in OPTIONS if name in OPTIONS[part]]
        if not parts:
            raise InputError(f"{name}: no option of the task or the model")
        for part in parts:
            config[part][name] = value
    task = SpeechDLMTask.setup_task(_options(folder, SpeechDLMTaskConfig(), config["task"], data=str(folder)))
    model = SpeechDLM.build_model(_options(folder, SpeechDLMConfig(), config["model"]), task)
    weights = read_weights(folder / WEIGHTS, config["tied_weights"])
    check_weights(model, weights, str(folder / WEIGHTS))
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} - {model.decoder.version.dtype}
    if len(kinds) == 1:
        model.to(dtype=kinds.pop())
    nn.Module.load_state_dict(model, weights)
    return model, task


def _plain(options: Any, names: list[str]) -> dict[str, Any]:
    """Options as JSON knows them."""
    values = {name: getattr(options, name) for name in names}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def _read_config(path: Path) -> dict[str, Any]:
    config = read_config(path, ["speech_dlm"], {"task": dict, "model": dict})
    for part, names in OPTIONS.items():
        check_keys(path, f"{part}.", config[part], names)
    return config


def _options(folder: Path, config: Any, values: Mapping[str, Any], **more: Any) -> Any:
    """The options of a config class, with checked types."""
    of_a_run = {option.name: OF_A_RUN[option.name] for option in fields(config) if option.name in OF_A_RUN}
    try:
        return OmegaConf.merge(OmegaConf.structured(config), {**of_a_run, **values, **more})
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{folder / CONFIG}: {one_line(error).split(' full_key:')[0]}") from None
