"""Trained models as folders without pickles: options as JSON, weights as safetensors, dictionaries as text.

::

    config.json  dict.unitA.txt  dict.unitB.txt  model.safetensors      a SpeechDLM
    config.json  dict.txt  model.safetensors                            a unit language model

``dict.txt`` has every unit of the codebook: given to fairseq-preprocess as --srcdict, no unit of other data is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from speechdlm_ext.checkpoints.model_state import KINDS, ModelState, option_names
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.config import read_config, write_json
from speechdlm_ext.models.speech_dlm import SpeechDLM, SpeechDLMConfig
from speechdlm_ext.models.unit_language_model import UnitLanguageModel
from speechdlm_ext.modules.weights import check_weights, read_safetensors
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask, SpeechDLMTaskConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
SPEECH_DLM = "speech_dlm"
# What belongs to a run and not to a SpeechDLM, and what it is when the model is read.
OF_A_RUN: dict[str, Any] = {"data": None, "seed": 1, "dataset_impl": None, "data_buffer_size": 10, "tpu": False}
OPTIONS = {
    part: [option.name for option in fields(config) if option.name not in ("_name", *OF_A_RUN)]
    for part, config in (("task", SpeechDLMTaskConfig), ("model", SpeechDLMConfig))
}
_UNIT_LM_PARTS = {"units": int, "frame_rate": (int, float, type(None)), "durations": bool, "model": dict}


def model_type(folder: str | os.PathLike[str]) -> str | None:
    """The kind of model that a folder's ``config.json`` names; ``None`` where there is no such file.

    Raises:
        InputError: it is no JSON object.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    return str(read_config(path).get("model_type"))


def save_speech_dlm(
    folder: str | os.PathLike[str], model: SpeechDLM, task: SpeechDLMTask, overwrite: bool = False
) -> None:
    """Write a model, its options and its dictionaries.

    Raises:
        InputError: there is a model already, and not ``overwrite``.
    """
    dictionaries = zip(task.channels, task.dictionary.dictionaries, strict=True)
    config = {
        "model_type": SPEECH_DLM,
        "task": {**_plain(task.cfg, OPTIONS["task"]), "channels": ",".join(task.channels)},
        "model": _plain(model.decoder.args, OPTIONS["model"]),
    }
    files = {f"dict.{channel}.txt": dictionary.save for channel, dictionary in dictionaries}
    _write(Path(folder), model, config, files, overwrite)


def load_speech_dlm_folder(
    folder: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> tuple[SpeechDLM, SpeechDLMTask]:
    """Read what :func:`save_speech_dlm` wrote, without running any code from it.

    Args:
        overrides: options of the task or the model to change.

    Raises:
        InputError: a file is missing or cut short, or one does not fit another.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG, [SPEECH_DLM], {"task": dict, "model": dict})
    for part, names in OPTIONS.items():
        _check_keys(folder / CONFIG, f"{part}.", config[part], names)
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


def _plain(options: Any, names: list[str]) -> dict[str, Any]:
    """Options as JSON knows them."""
    values = {name: getattr(options, name) for name in names}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def _options(folder: Path, config: Any, values: Mapping[str, Any], **more: Any) -> Any:
    """The options of a config class, with checked types."""
    of_a_run = {option.name: OF_A_RUN[option.name] for option in fields(config) if option.name in OF_A_RUN}
    return _typed(folder, config, {**of_a_run, **values, **more})


def save_unit_lm(
    folder: str | os.PathLike[str], model: UnitLanguageModel, frame_rate: float | None, overwrite: bool = False
) -> None:
    """Write a unit language model, its options and a dictionary of its codebook.

    Args:
        frame_rate: frames per second of its durations, or of units that are not deduplicated; ``None`` if not known.

    Raises:
        InputError: there is a model already, and not ``overwrite``.
    """
    (kind,) = (name for name, (own, _) in KINDS.items() if isinstance(model, own))
    units = model.decoder.dictionary.units
    config = {
        "model_type": kind,
        "units": units,
        "frame_rate": frame_rate,
        "durations": model.decoder.output_duration is not None,
        "model": {name: getattr(model.decoder.args, name) for name in option_names(kind)},
    }
    lines = "".join(f"{unit} 1\n" for unit in range(units))
    _write(Path(folder), model, config, {"dict.txt": lambda file: file.write(lines)}, overwrite)


def read_unit_lm(folder: str | os.PathLike[str]) -> ModelState:
    """Read what :func:`save_unit_lm` wrote, without running any code from it.

    Raises:
        InputError: a file is missing or cut short, or one does not fit another.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG, list(KINDS), _UNIT_LM_PARTS)
    kind = config["model_type"]
    _check_keys(folder / CONFIG, "model.", config["model"], option_names(kind))
    typed = _typed(folder, KINDS[kind][1](), {**config["model"], "durations": False})
    weights = _read_weights(folder / WEIGHTS, config["tied_weights"])
    options = {name: typed[name] for name in config["model"]}
    state = ModelState(kind, config["units"], options, weights, config["frame_rate"])
    if state.durations != config["durations"]:
        raise InputError(f"{folder / CONFIG}: durations is {config['durations']}, the weights say {state.durations}")
    return state


def _write(
    folder: Path,
    model: nn.Module,
    config: Mapping[str, Any],
    dictionaries: Mapping[str, Callable[[IO[str]], object]],
    overwrite: bool,
) -> None:
    """Write a model, its options and its dictionaries.

    ``config.json`` comes last, and a folder without it is not read: a save that was killed leaves nothing that loads.

    Args:
        config: options, with ``model_type``.
        dictionaries: by file name, what writes each.

    Raises:
        InputError: there is a model already, and not ``overwrite``.
    """
    for name in (CONFIG, WEIGHTS):
        if (folder / name).exists() and not overwrite:
            raise InputError(f"{folder / name} is there already: pass overwrite=True, or choose another folder")
    (folder / CONFIG).unlink(missing_ok=True)
    for name, save in dictionaries.items():
        with atomic_write(folder / name) as file:
            save(file)
    tensors, tied = _untied(model)
    with atomic_write(folder / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(tensors, {"format": "pt"}))
    whole = {"model_type": config["model_type"], "format": FORMAT, **config, "tied_weights": tied}
    write_json(folder / CONFIG, whole)


def _read_config(path: Path, model_types: Sequence[str], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Read ``config.json``.

    Args:
        model_types: the kinds of models that are expected.
        parts: what it has beside the kind, the format and the tied weights; of which type, or types.

    Raises:
        InputError: it is missing, cut short, of another kind of model, or of another version.
    """
    if not path.is_file():
        raise InputError(
            f"{path.parent}: no {CONFIG} in it: not the folder of a saved model, or saving was interrupted"
        )
    config = read_config(path)
    if config.get("model_type") not in model_types:
        raise InputError(f"{path}: model_type is {config.get('model_type')}, {' or '.join(model_types)} is expected")
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {config.get('format')}, {FORMAT} is expected: written by another version of this"
        )
    _check_keys(path, "", config, ["model_type", "format", *parts, "tied_weights"])
    for part, kind in {**parts, "tied_weights": dict}.items():
        if not isinstance(config[part], kind):
            expected = "an object" if kind is dict else getattr(kind, "__name__", "a number")
            raise InputError(f"{path}: {part} is {type(config[part]).__name__}, {expected} is expected")
    return config


def _check_keys(path: Path, prefix: str, found: Mapping[str, Any], expected: Sequence[str]) -> None:
    """Raise :class:`InputError` unless ``found`` has just the expected keys."""
    for name in expected:
        if name not in found:
            raise InputError(f"{path}: {prefix}{name} is missing")
    for name in found:
        if name not in expected:
            raise InputError(f"{path}: {prefix}{name} is not known: misspelt, or written by another version of this")


def _read_weights(path: Path, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Read ``model.safetensors``; raises :class:`InputError` where it is missing or cut off."""
    weights = read_safetensors(path)
    for name, same in tied.items():
        if same not in weights:
            raise InputError(f"{path}: {name} is the same as {same}, which is not there")
        weights[name] = weights[same]
    return weights


def _typed(folder: Path, config: Any, values: Mapping[str, Any]) -> Any:
    """The options of a config class, with checked types."""
    try:
        return OmegaConf.merge(OmegaConf.structured(config), values)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{folder / CONFIG}: {one_line(error).split(' full_key:')[0]}") from None


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
