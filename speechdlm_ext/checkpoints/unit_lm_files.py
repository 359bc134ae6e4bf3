"""Unit language models in files: fairseq's checkpoints, and the published forms, which its commands read as well."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from omegaconf import DictConfig, OmegaConf

from speechdlm_ext.checkpoints.unit_lm_formats import Form, from_amela, from_dpslm, is_amela, is_dpslm
from speechdlm_ext.compat.checkpoints import load_checkpoint, trust_checkpoints
from speechdlm_ext.criterions.unit_lm_criterion import UnitLMCriterionConfig
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.models.unit_language_model import UnitLanguageModel
from speechdlm_ext.models.unit_lm import UnitLM, UnitLMConfig
from speechdlm_ext.models.unit_lstm import UnitLSTM, UnitLSTMConfig
from speechdlm_ext.tasks.unit_language_modeling import DEFAULT_FRAME_RATE, UnitLanguageModelingConfig

KINDS: dict[str, tuple[type[UnitLanguageModel], Any]] = {
    "unit_lm": (UnitLM, UnitLMConfig),
    "unit_lstm": (UnitLSTM, UnitLSTMConfig),
}
TASK = "unit_language_modeling"
CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
# Marks a checkpoint that was made of a published form while it was read.
_CONVERTED = "speechdlm_converted"


def install() -> None:
    """Let fairseq read the published forms as its own checkpoints (``--path``); a second call does nothing."""
    upgrade: Callable[[Any], Any] = checkpoint_utils._upgrade_state_dict
    if getattr(upgrade, "_speechdlm_unit_lm", False):
        return
    load = checkpoint_utils.load_checkpoint_to_cpu

    def upgrade_published(state: Any) -> Any:
        form = published_form(state, "the checkpoint")
        return upgrade(state if form is None else {**fairseq_state(form), _CONVERTED: True})

    def load_published(path: str, arg_overrides: Any = None, load_on_all_ranks: bool = False) -> Any:
        state = load(path, arg_overrides, load_on_all_ranks)
        if state.pop(_CONVERTED, False) and arg_overrides is not None:
            overwrite_args_by_name(state["cfg"], arg_overrides)  # fairseq does so before there are any options
        return state

    upgrade_published._speechdlm_unit_lm = True  # type: ignore[attr-defined]
    upgrade_published._speechdlm_legacy = getattr(upgrade, "_speechdlm_legacy", False)  # type: ignore[attr-defined]
    checkpoint_utils._upgrade_state_dict = upgrade_published
    checkpoint_utils.load_checkpoint_to_cpu = load_published


def published_form(state: Any, where: str) -> Form | None:
    """A published checkpoint as a :class:`Form`; ``None`` for anything else."""
    if is_dpslm(state):
        return from_dpslm(state, where)
    return from_amela(state, where) if is_amela(state) else None


def fairseq_state(form: Form) -> dict[str, Any]:
    """What fairseq-train would have saved of this model, without the state of its training."""
    options = {"_name": form.kind, **form.options, "durations": _durations(form)}
    task = _defaults(UnitLanguageModelingConfig(), _name=TASK, units=form.units, durations=_durations(form), seed=1)
    criterion = _defaults(UnitLMCriterionConfig(), _name="unit_lm_criterion", sentence_avg=False)
    cfg = OmegaConf.create({"task": task, "model": options, "criterion": criterion})
    OmegaConf.set_struct(cfg, True)
    history = {
        "criterion_name": "UnitLMCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {"best": None},
        "num_updates": 0,
    }
    return {
        "args": None,
        "cfg": cfg,
        "model": dict(form.weights),
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {"units": form.units},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
        "last_optimizer_state": None,
    }


def read_form(path: str | os.PathLike[str], trust: bool | None = None) -> Form:
    """Read a unit language model: a fairseq checkpoint, DP-SLM's file, AMELA's folder or its weights.

    Args:
        trust: whether loading may run code that is in a pickle; see :func:`load_checkpoint`.

    Raises:
        InputError: there is no such file, it is damaged, or of another model.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, trust)
    if path.suffix == ".safetensors":
        return _read_folder(path.parent, trust) if (path.parent / CONFIG).is_file() else _amela(path, trust, None)
    with trust_checkpoints(trust):
        state = load_checkpoint(path, trust=trust)
    form = published_form(state, str(path))
    if form is not None:
        return form
    if not isinstance(state, Mapping) or not ({"cfg", "args"} & state.keys()) or "model" not in state:
        raise InputError(f"{path}: neither a checkpoint of fairseq nor of a published unit language model")
    return _of_fairseq(checkpoint_utils._upgrade_state_dict(_with_options(dict(state))), path)


def _with_options(state: dict[str, Any]) -> dict[str, Any]:
    """The options as fairseq's upgrade wants them."""
    if state.get("cfg") is not None and not isinstance(state["cfg"], DictConfig):
        state["cfg"] = OmegaConf.create(state["cfg"])
    return state


def _of_fairseq(state: Mapping[str, Any], path: Path) -> Form:
    kind = state["cfg"].model.get("_name") or state["cfg"].model.get("arch", "")
    known = next((own for own in KINDS if kind == own or str(kind).startswith(f"{own}_")), None)
    if known is None:
        raise InputError(f"{path}: a model {kind}, {' or '.join(KINDS)} is wanted")
    names = [option.name for option in fields(KINDS[known][1]) if option.name not in ("_name", "durations")]
    options = {name: state["cfg"].model[name] for name in names if name in state["cfg"].model}
    weights = dict(state["model"])
    output = weights.get("decoder.output.weight")
    if output is None:
        raise InputError(f"{path} has no weights decoder.output.weight: it is damaged")
    return Form(known, len(output) - 1, options, weights, _frame_rate(state))


def _frame_rate(state: Mapping[str, Any]) -> float | None:
    """Of the data that a model was trained on, as the task takes it."""
    task = state["cfg"].get("task") or {}
    return task.get("frame_rate") or (DEFAULT_FRAME_RATE if task.get("durations") else None)


def _read_folder(folder: Path, trust: bool | None) -> Form:
    """AMELA's folder: ``config.json`` with ``model.safetensors`` or ``pytorch_model.bin``."""
    config = folder / CONFIG
    found = next((folder / name for name in (WEIGHTS, OLD_WEIGHTS) if (folder / name).is_file()), None)
    if found is None or not config.is_file():
        raise InputError(f"{folder}: {CONFIG} with {WEIGHTS} or {OLD_WEIGHTS} is wanted, they are not all there")
    try:
        options = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{config}: not JSON ({one_line(error)})") from None
    if not isinstance(options, dict) or options.get("model_type") != "lstm":
        raise InputError(f"{config}: model_type is not lstm: not an LSTM language model of AMELA")
    return _amela(found, trust, options)


def _amela(path: Path, trust: bool | None, config: Mapping[str, Any] | None) -> Form:
    if path.suffix != ".safetensors":
        weights = load_checkpoint(path, trust=trust)
    else:
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint")
        try:
            weights = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, ValueError, OSError) as error:
            raise InputError(f"{path}: cannot be read, cut off while it was copied? ({one_line(error)})") from None
    return from_amela(weights, str(path), config)


def build(form: Form, where: str) -> UnitLanguageModel:
    """The model of a :class:`Form`, in evaluation mode on the CPU.

    Raises:
        InputError: weights that are missing, unknown, or of other shapes than the options say.
    """
    from speechdlm_ext.checkpoints.weights import check_weights
    from speechdlm_ext.data.unit_dictionary import UnitDictionary

    kind, config = KINDS[form.kind]
    args = Namespace(**{**vars(config()), **form.options, "durations": _durations(form)})
    model: UnitLanguageModel = kind.build_model(args, Namespace(source_dictionary=UnitDictionary(form.units)))
    check_weights(model, form.weights, where)
    model.load_state_dict(form.weights)
    return model.eval()


def _durations(form: Form) -> bool:
    return any("output_duration" in name for name in form.weights)


def _defaults(config: Any, **values: Any) -> dict[str, Any]:
    """The options of a config class that are not taken from others, and ``values``."""
    plain = {option.name: getattr(config, option.name) for option in fields(config)}
    return {name: value for name, value in {**plain, **values}.items() if not str(value).startswith("${")}
