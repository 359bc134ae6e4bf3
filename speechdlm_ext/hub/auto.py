"""Loading a model of whatever kind it is: of dialogues, or of one channel of units."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechdlm_ext.checkpoints.pretrained_folder import model_type
from speechdlm_ext.checkpoints.published_unit_lms import locate_unit_lm
from speechdlm_ext.checkpoints.unit_lm_files import OLD_WEIGHTS, WEIGHTS
from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub.load_dialogue_model import load_speech_dlm
from speechdlm_ext.hub.load_unit_model import load_unit_lm
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.hub.unit_model import UnitModel


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
        return load_speech_dlm(given) if kind == "speech_dlm" else load_unit_lm(given, trust=trust)
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


def _is_speech_dlm(state: Any) -> bool:
    """Whether a checkpoint was trained by the SpeechDLM's task."""
    if not isinstance(state, Mapping):
        return False
    options = state.get("cfg") or {}
    task = options.get("task") or {}
    name = task.get("_name") if isinstance(task, Mapping) or hasattr(task, "get") else getattr(task, "_name", task)
    return str(name or getattr(state.get("args"), "task", "")) == "speech_dlm_task"
