"""A trained model as a folder without pickles: options as JSON, weights as safetensors, dictionaries as text.

::

    config.json  dict.unitA.txt  dict.unitB.txt  model.safetensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.manifest import atomic_write
from speechdlm_ext.models.speech_dlm import SpeechDLM, SpeechDLMConfig
from speechdlm_ext.models.weights import check_weights
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask, SpeechDLMTaskConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
# What belongs to a run and not to the model, and what it is when the model is read.
OF_A_RUN: dict[str, Any] = {"data": None, "seed": 1, "dataset_impl": None, "data_buffer_size": 10, "tpu": False}
OPTIONS = {
    part: [option.name for option in fields(config) if option.name not in ("_name", *OF_A_RUN)]
    for part, config in (("task", SpeechDLMTaskConfig), ("model", SpeechDLMConfig))
}


def is_saved_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether :func:`save_folder` wrote there."""
    return (Path(folder) / CONFIG).is_file()


def save_folder(folder: str | os.PathLike[str], model: SpeechDLM, task: SpeechDLMTask, overwrite: bool = False) -> None:
    """Write a model, its options and its dictionaries.

    ``config.json`` comes last, and a folder without it is not read: a save that was killed leaves nothing that loads.

    Raises:
        InputError: there is a model already, and not ``overwrite``.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if (folder / name).exists() and not overwrite:
            raise InputError(f"{folder / name} is there already: pass overwrite=True, or choose another folder")
    (folder / CONFIG).unlink(missing_ok=True)
    for channel, dictionary in zip(task.channels, task.dictionary.dictionaries, strict=True):
        with atomic_write(folder / f"dict.{channel}.txt") as file:
            dictionary.save(file)
    tensors, tied = _untied(model)
    with atomic_write(folder / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(tensors, {"format": "pt"}))
    config = {
        "model_type": "speech_dlm",
        "format": FORMAT,
        "task": {**_plain(task.cfg, OPTIONS["task"]), "channels": ",".join(task.channels)},
        "model": _plain(model.decoder.args, OPTIONS["model"]),
        "tied_weights": tied,
    }
    with atomic_write(folder / CONFIG) as file:
        json.dump(config, file, indent=2, ensure_ascii=False)
        file.write("\n")


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
    weights = _read_weights(folder / WEIGHTS, config["tied_weights"])
    check_weights(model, weights, str(folder / WEIGHTS))
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} - {model.decoder.version.dtype}
    if len(kinds) == 1:
        model.to(dtype=kinds.pop())
    nn.Module.load_state_dict(model, weights)
    return model, task


def _untied(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights, each once, and for the names of the others under which name they are."""
    first: dict[tuple[int, Any], str] = {}
    tensors, tied = {}, {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else (0, name)
        if place in first:
            tied[name] = first[place]
        else:
            first[place] = name
            tensors[name] = tensor.detach().cpu().contiguous()
    return tensors, tied


def _plain(options: Any, names: list[str]) -> dict[str, Any]:
    """Options as JSON knows them."""
    values = {name: getattr(options, name) for name in names}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"{path.parent}: no {CONFIG} in it: not the folder of a saved model, or saving was interrupted"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({one_line(error)})") from None
    if not isinstance(config, dict) or config.get("model_type") != "speech_dlm":
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"{path}: model_type is {found}, speech_dlm is wanted")
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {config.get('format')}, {FORMAT} is wanted: written by another version of this"
        )
    _check_keys(path, "", config, ["model_type", "format", "task", "model", "tied_weights"])
    for part in ("task", "model", "tied_weights"):
        if not isinstance(config[part], dict):
            raise InputError(f"{path}: {part} is {type(config[part]).__name__}, an object is wanted")
    for part, names in OPTIONS.items():
        _check_keys(path, f"{part}.", config[part], names)
    return config


def _check_keys(path: Path, prefix: str, found: Mapping[str, Any], wanted: list[str]) -> None:
    for name in wanted:
        if name not in found:
            raise InputError(f"{path}: {prefix}{name} is missing")
    for name in found:
        if name not in wanted:
            raise InputError(f"{path}: {prefix}{name} is not known: misspelt, or written by another version of this")


def _options(folder: Path, config: Any, values: Mapping[str, Any], **more: Any) -> Any:
    """The options of a config class, with checked types."""
    of_a_run = {option.name: OF_A_RUN[option.name] for option in fields(config) if option.name in OF_A_RUN}
    try:
        return OmegaConf.merge(OmegaConf.structured(config), {**of_a_run, **values, **more})
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{folder / CONFIG}: {one_line(error).split(' full_key:')[0]}") from None


def _read_weights(path: Path, tied: Mapping[str, str]) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file: not the whole folder of a saved model")
    try:
        weights = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read, cut off while it was written or copied? ({one_line(error)})"
        ) from None
    for name, same in tied.items():
        if same not in weights:
            raise InputError(f"{path}: {name} is the same as {same}, which is not there")
        weights[name] = weights[same]
    return weights
