"""Loading trained models: checkpoints of fairseq-train, folders of ``save_pretrained``, published files and names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from omegaconf import open_dict

from speechdlm_ext.checkpoints.amela import OLD_WEIGHTS
from speechdlm_ext.checkpoints.dpslm import locate_unit_lm
from speechdlm_ext.checkpoints.formats import read_model
from speechdlm_ext.checkpoints.model_state import build_model
from speechdlm_ext.checkpoints.pretrained_folder import (
    CONFIG,
    OPTIONS,
    SPEECH_DLM,
    WEIGHTS,
    load_speech_dlm_folder,
    model_type,
)
from speechdlm_ext.compat.checkpoints import load_checkpoint, trust_checkpoints
from speechdlm_ext.data.binarized_corpus import BinarizedCorpus
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.hub.unit_model import UnitModel
from speechdlm_ext.models.speech_dlm import SpeechDLM
from speechdlm_ext.modules.weights import check_finite
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask


def load_model(
    path_or_name: str | os.PathLike[str], data: str | os.PathLike[str] = ".", trust: bool | None = None
) -> DialogueModel | UnitModel:
    """Load a checkpoint, a folder of ``save_pretrained`` or of AMELA, or a published model by name.

    Args:
        path_or_name: several checkpoints, separated by colons, make an ensemble.
        data: folder with ``dict.<channel>.txt`` of a SpeechDLM's checkpoint; "." is also the checkpoint's.
        trust: as for :func:`load_speech_dlm`.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: as :func:`load_speech_dlm` and :func:`load_unit_lm`.
    """
    given = os.fspath(path_or_name)
    first = given.split(os.pathsep)[0]
    if os.path.isdir(given):
        kind = model_type(given)
        if kind is None:
            raise InputError(
                f"{given}: no config.json in it: name a checkpoint in this folder, or that of a saved model"
            )
        return load_speech_dlm(given) if kind == SPEECH_DLM else load_unit_lm(given, trust=trust)
    if not os.path.isfile(first) or not _is_speech_dlm(load_checkpoint(first, trust=trust)):
        return load_unit_lm(given, trust=trust)
    paths = os.pathsep.join(os.path.abspath(path) for path in given.split(os.pathsep))
    return load_speech_dlm(os.path.dirname(os.path.abspath(first)), paths, data, trust)


def checkpoint_files(path_or_name: str | os.PathLike[str]) -> list[Path]:
    """The files that :func:`load_model` reads weights from."""
    given = os.fspath(path_or_name)
    if os.path.isdir(given):
        return [path for path in (Path(given, WEIGHTS), Path(given, OLD_WEIGHTS)) if path.is_file()]
    return [locate_unit_lm(name) for name in given.split(os.pathsep)]


def load_speech_dlm(
    model_name_or_path: str | os.PathLike[str],
    checkpoint_file: str = "model.pt",
    data_name_or_path: str | os.PathLike[str] = ".",
    trust: bool | None = None,
    **overrides: Any,
) -> DialogueModel:
    """Load one checkpoint or an ensemble, or what :meth:`DialogueModel.save_pretrained` wrote.

    Args:
        model_name_or_path: folder of the checkpoint, or the checkpoint itself; or a folder of ``save_pretrained``,
            which needs none of the arguments that follow.
        checkpoint_file: its name in that folder; several, separated by colons, make an ensemble.
        data_name_or_path: folder with ``dict.<channel>.txt``; beginning with "." it is relative to the checkpoint's.
        trust: whether loading the checkpoint may run code that is in it, as pickles can; by default that is refused
            unless SPEECHDLM_TRUST_CHECKPOINTS is set.
        overrides: options of the task or the model to change.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: a file is missing or damaged, the checkpoint is not of a SpeechDLM or would run code, its weights
            are not numbers, or the dictionaries are not those that it was trained with.
    """
    folder, names = os.fspath(model_name_or_path), checkpoint_file
    if os.path.isfile(folder):
        folder, names = os.path.split(os.path.abspath(folder))
    paths = [os.path.join(folder, name) for name in names.split(os.pathsep)]
    if model_type(folder) is not None and not os.path.exists(paths[0]):
        saved, its_task = load_speech_dlm_folder(folder, overrides)
        check_finite(saved, os.path.join(folder, WEIGHTS))
        return DialogueModel([saved], its_task)
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f"{path}: no such checkpoint, nor are {CONFIG} and {WEIGHTS} of a saved model in {folder}")
    data = _data_folder(folder, os.fspath(data_name_or_path))
    models: list[Any] = []
    task: Any = None
    for path in paths:
        with trust_checkpoints(trust):
            state = _read(path, {"data": data, **overrides})
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([path], task=task, strict=True, state=state)
        check_finite(model, path)
        models.append(model)
    assert isinstance(task, SpeechDLMTask)
    return DialogueModel(models, task)


def load_unit_lm(
    model_name_or_path: str | os.PathLike[str],
    checkpoint_file: str = "model.pt",
    data_name_or_path: str | os.PathLike[str] | None = None,
    trust: bool | None = None,
    frame_rate: float | None = None,
) -> UnitModel:
    """Load one model or an ensemble.

    Args:
        model_name_or_path: a checkpoint of fairseq-train, a file of DP-SLM, or the folder of either; a folder of
            :meth:`UnitModel.save_pretrained` or of AMELA; or the name of a published model.
        checkpoint_file: its name in that folder; several, separated by colons, make an ensemble.
        data_name_or_path: folder of binarized data, whose units must be those of the model, which does not need it.
        trust: whether loading may run code that is in the checkpoint, as pickles can; by default that is refused unless
            SPEECHDLM_TRUST_CHECKPOINTS is set.
        frame_rate: frames per second of durations, or of units that are not deduplicated (default: the checkpoint's).

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: a file is missing or damaged, or is not of a unit language model, or would run code; its weights are
            not numbers, or not those of its options; the data are of another codebook.
    """
    paths = _paths(os.fspath(model_name_or_path), checkpoint_file)
    states = [read_model(path, trust) for path in paths]
    models = [build_model(state, str(path)) for state, path in zip(states, paths, strict=True)]
    for model, path in zip(models, paths, strict=True):
        check_finite(model, str(path))
    found = UnitModel(models, frame_rate or states[0].frame_rate)
    if data_name_or_path is not None:
        corpus = BinarizedCorpus(os.fspath(data_name_or_path))
        of_the_data = UnitDictionary.of(corpus.dictionary, corpus.path)
        if of_the_data.units > found.units:
            raise InputError(
                f"{corpus.path} has units up to {of_the_data.units - 1}, the model knows 0 to {found.units - 1}: it is "
                "a model of units of another codebook"
            )
    return found


def _read(path: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The contents of a checkpoint, if it is one of a SpeechDLM."""
    try:
        state: dict[str, Any] = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
        cfg = state["cfg"]
        task, model = cfg.task._name, cfg.model._name
    except (KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"{path}: not a checkpoint of fairseq-train") from None
    kind = ARCH_MODEL_REGISTRY.get(model) or MODEL_REGISTRY.get(model)
    if task != "speech_dlm_task" or not (isinstance(kind, type) and issubclass(kind, SpeechDLM)):
        raise InputError(f"{path}: a model {model} of task {task}, speech_dlm of speech_dlm_task is expected")
    with open_dict(cfg):  # fairseq changes only those options that the checkpoint has
        for part, options in ((cfg.task, OPTIONS["task"]), (cfg.model, OPTIONS["model"])):
            part.update({name: value for name, value in overrides.items() if name in options})
    return state


def _data_folder(folder: str, data: str) -> str:
    """Where the dictionaries are; "." and the like are beside the checkpoint unless they hold dictionaries."""
    if not data.startswith(".") or _has_dictionaries(data):
        return data
    beside = os.path.abspath(os.path.join(folder, data))
    return beside if os.path.isdir(beside) else data


def _has_dictionaries(folder: str) -> bool:
    return os.path.isdir(folder) and any(name.startswith("dict.") for name in os.listdir(folder))


def _paths(given: str, names: str) -> list[Path]:
    """The files or folders to read."""
    if os.path.isdir(given):
        paths = [Path(given, name) for name in names.split(os.pathsep)]
        return paths if paths[0].exists() else [Path(given)]
    if os.pathsep in given:
        return [Path(name) for name in given.split(os.pathsep)]
    return [Path(locate_unit_lm(given))]


def _is_speech_dlm(state: Any) -> bool:
    """Whether a checkpoint was trained by the SpeechDLM's task."""
    if not isinstance(state, Mapping):
        return False
    options = state.get("cfg") or {}
    task = options.get("task") or {}
    name = task.get("_name") if isinstance(task, Mapping) or hasattr(task, "get") else getattr(task, "_name", task)
    return str(name or getattr(state.get("args"), "task", "")) == "speech_dlm_task"
