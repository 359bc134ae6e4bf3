"""What folders of ``save_pretrained`` have in common: options as JSON, weights as safetensors, dictionaries as text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


def model_type(folder: str | os.PathLike[str]) -> str | None:
    """The kind of model that a folder's ``config.json`` names; ``None`` where there is no such file.

    Raises:
        InputError: it is not JSON.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    config = _read_json(path)
    return str(config.get("model_type")) if isinstance(config, dict) else type(config).__name__


def write_model(
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
    with atomic_write(folder / CONFIG) as file:
        whole = {"model_type": config["model_type"], "format": FORMAT, **config, "tied_weights": tied}
        json.dump(whole, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_config(path: Path, model_types: Sequence[str], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Read ``config.json``.

    Args:
        model_types: the kinds of models that are wanted.
        parts: what it has beside the kind, the format and the tied weights; of which type, or types.

    Raises:
        InputError: it is missing, cut short, of another kind of model, or of another version.
    """
    if not path.is_file():
        raise InputError(
            f"{path.parent}: no {CONFIG} in it: not the folder of a saved model, or saving was interrupted"
        )
    config = _read_json(path)
    if not isinstance(config, dict) or config.get("model_type") not in model_types:
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"{path}: model_type is {found}, {' or '.join(model_types)} is wanted")
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {config.get('format')}, {FORMAT} is wanted: written by another version of this"
        )
    check_keys(path, "", config, ["model_type", "format", *parts, "tied_weights"])
    for part, kind in {**parts, "tied_weights": dict}.items():
        if not isinstance(config[part], kind):
            wanted = "an object" if kind is dict else getattr(kind, "__name__", "a number")
            raise InputError(f"{path}: {part} is {type(config[part]).__name__}, {wanted} is wanted")
    return config


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({one_line(error)})") from None


def check_keys(path: Path, prefix: str, found: Mapping[str, Any], wanted: Sequence[str]) -> None:
    """Raise :class:`InputError` unless ``found`` has just the wanted keys."""
    for name in wanted:
        if name not in found:
            raise InputError(f"{path}: {prefix}{name} is missing")
    for name in found:
        if name not in wanted:
            raise InputError(f"{path}: {prefix}{name} is not known: misspelt, or written by another version of this")


def read_weights(path: Path, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Read ``model.safetensors``; raises :class:`InputError` where it is missing or cut off."""
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
