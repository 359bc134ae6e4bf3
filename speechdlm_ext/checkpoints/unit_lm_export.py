"""Writing unit language models in each of the forms in which they can be read."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from speechdlm_ext.checkpoints.unit_lm_files import CONFIG, WEIGHTS, build, fairseq_state
from speechdlm_ext.checkpoints.unit_lm_formats import Form, to_amela, to_dpslm
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write


def write_form(form: Form, target: Path, kind: str, where: str, overwrite: bool = False) -> list[Path]:
    """Write a model.

    Args:
        target: a file, or for ``amela`` a folder.
        kind: ``fairseq``, ``dpslm`` or ``amela``.
        where: what to name in errors.

    Returns:
        The files that were written.

    Raises:
        InputError: there are such files already, the model is of another kind, or its weights do not fit its options.
    """
    build(form, where)
    if kind == "amela":
        config, weights = to_amela(form, where)
        paths = [target / WEIGHTS, target / CONFIG]
        _check_free(paths, overwrite)
        with atomic_write(paths[0], "wb") as file:
            plain = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
            file.write(safetensors.torch.save(plain, {"format": "pt"}))
        with atomic_write(paths[1]) as file:
            json.dump(config, file, indent=2)
            file.write("\n")
        return paths
    state = fairseq_state(form) if kind == "fairseq" else to_dpslm(form, where)
    _check_free([target], overwrite)
    with atomic_write(target, "wb") as file:
        torch.save(state, file)
    return [target]


def _check_free(paths: list[Path], overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already: pass --overwrite, or choose another place")
