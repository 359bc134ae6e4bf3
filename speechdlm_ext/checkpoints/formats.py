"""The formats that unit language models are read from and written in: one line each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name

from speechdlm_ext.checkpoints.amela import from_amela, is_amela, read_amela_folder, read_amela_weights, write_amela
from speechdlm_ext.checkpoints.dpslm import from_dpslm, is_dpslm, write_dpslm
from speechdlm_ext.checkpoints.fairseq_files import fairseq_state, from_fairseq, is_fairseq, write_fairseq
from speechdlm_ext.checkpoints.model_state import ModelState, build_model
from speechdlm_ext.checkpoints.pretrained_folder import CONFIG, model_type, read_unit_lm
from speechdlm_ext.compat.checkpoints import load_checkpoint, trust_checkpoints
from speechdlm_ext.errors import InputError


class Format(NamedTuple):
    """How one format is told apart, read and written.

    Attributes:
        holds: whether what ``torch.load`` gave is of this format.
        read: of that, and the path for errors, the model.
        write: writes a model to a path (a folder for some formats), naming a source in errors; returns the files.
    """

    holds: Callable[[Any], bool]
    read: Callable[[Any, str], ModelState]
    write: Callable[[ModelState, Path, str], list[Path]]


FORMATS = {
    "fairseq": Format(is_fairseq, from_fairseq, write_fairseq),
    "dpslm": Format(is_dpslm, from_dpslm, write_dpslm),
    "amela": Format(is_amela, from_amela, write_amela),
}
# Marks a checkpoint that was made of a published format while fairseq read it.
CONVERTED = "speechdlm_converted"


def read_model(path: str | os.PathLike[str], trust: bool | None = None) -> ModelState:
    """Read a unit language model of any format, or a folder of ``save_pretrained`` or of AMELA.

    Args:
        trust: whether loading may run code that is in a pickle; see :func:`load_checkpoint`.

    Raises:
        InputError: there is no such file, it is damaged, or of another model.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and (path.parent / CONFIG).is_file():
        path = path.parent
    if path.is_dir():
        return read_amela_folder(path, trust) if model_type(path) in (None, "lstm") else read_unit_lm(path)
    if path.suffix == ".safetensors":
        return read_amela_weights(path, trust)
    with trust_checkpoints(trust):
        state = load_checkpoint(path, trust=trust)
    for format in FORMATS.values():
        if isinstance(state, Mapping) and format.holds(state):
            return format.read(state, str(path))
    raise InputError(f"{path}: neither a checkpoint of fairseq nor of a published unit language model")


def write_model(state: ModelState, target: Path, format: str, where: str, overwrite: bool = False) -> list[Path]:
    """Write a model.

    Args:
        target: a file, or for ``amela`` a folder.
        format: a name in :data:`FORMATS`.
        where: what to name in errors.

    Returns:
        The files that were written.

    Raises:
        InputError: there are such files already, the model is of another kind, or its weights do not fit its options.
    """
    build_model(state, where)
    existing = [path for path in (target, target / CONFIG) if path.is_file()]
    if existing and not overwrite:
        raise InputError(f"{existing[0]} exists: pass --overwrite, or choose another place")
    return FORMATS[format].write(state, target, where)


def install() -> None:
    """Let fairseq's commands read all formats as its own (``--path``); a second call does nothing."""
    upgrade: Callable[[Any], Any] = checkpoint_utils._upgrade_state_dict
    if getattr(upgrade, "_speechdlm_unit_lm", False):
        return
    load = checkpoint_utils.load_checkpoint_to_cpu

    def upgrade_published(state: Any) -> Any:
        converted = _published(state)
        return upgrade(state if converted is None else {**fairseq_state(converted), CONVERTED: True})

    def load_published(path: str, arg_overrides: Any = None, load_on_all_ranks: bool = False) -> Any:
        state = load(path, arg_overrides, load_on_all_ranks)
        if state.pop(CONVERTED, False) and arg_overrides is not None:
            overwrite_args_by_name(state["cfg"], arg_overrides)  # fairseq does so before there are any options
        return state

    upgrade_published._speechdlm_unit_lm = True  # type: ignore[attr-defined]
    upgrade_published._speechdlm_legacy = getattr(upgrade, "_speechdlm_legacy", False)  # type: ignore[attr-defined]
    checkpoint_utils._upgrade_state_dict = upgrade_published
    checkpoint_utils.load_checkpoint_to_cpu = load_published


def _published(state: Any) -> ModelState | None:
    """What a file of another format than fairseq's holds; ``None`` for all others."""
    for name, format in FORMATS.items():
        if name != "fairseq" and format.holds(state):
            return format.read(state, "the checkpoint")
    return None
