"""The files of a published unit HiFi-GAN: generator, config.json, speakers.txt, styles.txt; reading and writing."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.modules.unit_generator import UnitGenerator
from speechdlm_ext.modules.weight_norm import fold_weight_norm
from speechdlm_ext.vocoders.published import VOCODERS, fetch_vocoder

_TABLES = {"dict.weight": "num_embeddings", "spkr.weight": "num_speakers", "style.weight": "num_styles"}


def find_checkpoint(path_or_name: str | os.PathLike[str]) -> Path:
    """A checkpoint: the file itself, ``generator.pt`` in a folder, or a published one by its name, which fetches it.

    Raises:
        InputError: there is neither such a file nor such a name, or it cannot be fetched.
    """
    path = Path(path_or_name)
    if path.is_dir():
        path = path / "generator.pt"
        if not path.is_file():
            raise InputError(f"{path.parent} has no generator.pt: name the checkpoint itself")
    elif not path.is_file():
        if os.fspath(path_or_name) not in VOCODERS:
            raise InputError(f"{path}: no such checkpoint, nor the name of a published one ({', '.join(VOCODERS)})")
        path = fetch_vocoder(os.fspath(path_or_name))
    return path


def find_config(checkpoint: Path) -> Path:
    """``config.json`` beside the checkpoint, or ``<name>_config.json`` where that is there and the other is not."""
    usual, named = checkpoint.with_name("config.json"), checkpoint.with_name(f"{checkpoint.stem}_config.json")
    return named if named.is_file() and not usual.is_file() else usual


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The options of a vocoder from its ``config.json``; raises InputError where it is missing or is no JSON object."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the config.json published with the checkpoint is needed") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: a JSON object is wanted, found {type(config).__name__}")
    return config


def read_names(path: Path) -> list[str]:
    """The names of speakers or styles, one a line in the order of the table; none where there is no file."""
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The generator's weights; the file cannot run code.

    Raises:
        InputError: the file is damaged or would run code, or is not ``{"generator": weights}``.
    """
    state = load_checkpoint(path)
    weights = state.get("generator") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        found = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else type(state).__name__
        raise InputError(f'{path}: {{"generator": weights}} is wanted, found {found or "nothing"}')
    return weights


def load_generator(path: Path, config: Mapping[str, Any]) -> UnitGenerator:
    """The generator with the weights of a checkpoint, strictly, weight norm folded, ready to speak.

    Tables whose size the configuration does not give are as large as in the checkpoint.

    Raises:
        InputError: as :func:`read_weights` and :class:`UnitGenerator`, or a weight is missing, is one too many, is of
            another shape or is not a finite number.
    """
    weights = fold_weight_norm(read_weights(path), str(path))
    config = dict(config)
    for name, option in _TABLES.items():
        if name in weights and weights[name].dim() == 2:
            config.setdefault(option, len(weights[name]))
    generator = UnitGenerator(config)
    generator.fold_weight_norm()
    _check_weights(generator, weights, str(path))
    generator.load_state_dict(weights, strict=True)
    return generator.eval().requires_grad_(False)


def _check_weights(generator: UnitGenerator, weights: Mapping[str, Tensor], where: str) -> None:
    wanted = generator.state_dict()
    missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing:
        raise InputError(f"{where} has no weights {_some(missing)}: its config.json is of another vocoder")
    if unknown:
        raise InputError(f"{where} has weights {_some(unknown)}, which its config.json does not account for")
    for name, tensor in wanted.items():
        found = weights[name]
        if found.shape != tensor.shape:
            option = f" ({_TABLES[name]})" if name in _TABLES else ""
            raise InputError(
                f"{where}: {name} is {_shape(found)}, its config.json{option} says {_shape(tensor)}: "
                "take the config.json that belongs to it"
            )
        if not bool(torch.isfinite(found).all()):
            raise InputError(f"{where}: weights {name} have values that are not numbers")


def write_vocoder(
    folder: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    speakers: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a vocoder in the published form; the checkpoint comes last, so that a folder that has it is whole.

    Args:
        folder: gets ``config.json``, ``speakers.txt`` (where there are any) and ``generator.pt``.
        weights: of a :class:`UnitGenerator`.
        config: its options, and further facts to keep.
        speakers: names of the speakers.
        overwrite: replace a vocoder that is there.

    Returns:
        The checkpoint.

    Raises:
        InputError: a vocoder is there already.
    """
    folder = Path(folder)
    checkpoint = folder / "generator.pt"
    if checkpoint.exists() and not overwrite:
        raise InputError(f"{checkpoint} is there already: pass --overwrite to replace it")
    checkpoint.unlink(missing_ok=True)
    with atomic_write(folder / "config.json") as file:
        json.dump(dict(config), file, indent=2, sort_keys=True)
        file.write("\n")
    if speakers:
        with atomic_write(folder / "speakers.txt") as file:
            file.writelines(f"{name}\n" for name in speakers)
    buffer = io.BytesIO()
    torch.save({"generator": {name: tensor.detach().cpu() for name, tensor in weights.items()}}, buffer)
    with atomic_write(checkpoint, "wb") as file:
        file.write(buffer.getvalue())
    return checkpoint


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"
