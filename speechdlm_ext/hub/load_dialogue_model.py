"""Loading models from fairseq's checkpoints, or from folders of ``save_pretrained``."""

from __future__ import annotations

import os
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from omegaconf import open_dict

from speechdlm_ext.checkpoints.speech_dlm_folder import CONFIG, OPTIONS, WEIGHTS, is_saved_folder, load_folder
from speechdlm_ext.checkpoints.weights import check_finite
from speechdlm_ext.compat.checkpoints import trust_checkpoints
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.models.speech_dlm import SpeechDLM
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask


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
    if is_saved_folder(folder) and not os.path.exists(paths[0]):
        saved, its_task = load_folder(folder, overrides)
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
        raise InputError(f"{path}: a model {model} of task {task}, speech_dlm of speech_dlm_task is wanted")
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
