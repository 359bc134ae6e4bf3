"""A trained unit language model as a folder without pickles.

::

    config.json  dict.txt  model.safetensors

``dict.txt`` has every unit of the codebook: given to fairseq-preprocess as --srcdict, no unit of other data is lost.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
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
from speechdlm_ext.checkpoints.unit_lm_files import KINDS
from speechdlm_ext.checkpoints.weights import check_finite, check_weights
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.models.unit_language_model import UnitLanguageModel, check_units

_PARTS = {"units": int, "frame_rate": (int, float, type(None)), "durations": bool, "model": dict}


def save_unit_folder(
    folder: str | os.PathLike[str], model: UnitLanguageModel, frame_rate: float | None, overwrite: bool = False
) -> None:
    """Write a model, its options and a dictionary of its codebook.

    Args:
        frame_rate: frames a second of its durations, or of units that are not deduplicated; ``None`` if not known.

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
        "model": {name: getattr(model.decoder.args, name) for name in _options(kind)},
    }
    lines = "".join(f"{unit} 1\n" for unit in range(units))
    write_model(Path(folder), model, config, {"dict.txt": lambda file: file.write(lines)}, overwrite)


def load_unit_folder(folder: str | os.PathLike[str]) -> tuple[UnitLanguageModel, float | None]:
    """Read what :func:`save_unit_folder` wrote, without running any code from it.

    Returns:
        The model in evaluation mode on the CPU, and its frame rate.

    Raises:
        InputError: a file is missing or cut short, or one does not fit another.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG, list(KINDS), _PARTS)
    kind, options = KINDS[config["model_type"]]
    check_keys(folder / CONFIG, "model.", config["model"], _options(config["model_type"]))
    args = Namespace(**_typed(folder, options(), config["model"]), durations=config["durations"])
    model: UnitLanguageModel = kind.build_model(args, Namespace(source_dictionary=UnitDictionary(config["units"])))
    weights = read_weights(folder / WEIGHTS, config["tied_weights"])
    check_units(model, weights, str(folder / WEIGHTS))
    check_weights(model, weights, str(folder / WEIGHTS))
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} - {torch.float32}
    if len(kinds) == 1:
        model.to(dtype=kinds.pop())
    nn.Module.load_state_dict(model, weights)
    check_finite(model, str(folder / WEIGHTS))
    return model.eval(), config["frame_rate"]


def _options(kind: str) -> list[str]:
    return [option.name for option in fields(KINDS[kind][1]) if option.name not in ("_name", "durations")]


def _typed(folder: Path, config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a config class, with checked types."""
    try:
        typed = OmegaConf.merge(OmegaConf.structured(config), {**values, "durations": False})
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{folder / CONFIG}: {one_line(error).split(' full_key:')[0]}") from None
    return {name: typed[name] for name in values}
