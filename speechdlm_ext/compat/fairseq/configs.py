"""Options: those of old checkpoints with integers kept as floats, and a --user-dir that is not there."""

from __future__ import annotations

import functools
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from speechdlm_ext.compat.imports import after_import
from speechdlm_ext.compat.refusal import refusal
from speechdlm_ext.compat.repair import Repair, always

PACKAGE = Path(__file__).resolve().parents[2]


def _take_whole_floats_as_integers(module: ModuleType) -> None:
    original = module.merge_with_parent

    @functools.wraps(original)
    def merge_with_parent(dc: Any, cfg: Any, *args: Any, **options: Any) -> Any:
        _round_whole_floats(dc, cfg)
        return original(dc, cfg, *args, **options)

    module.merge_with_parent = merge_with_parent  # type: ignore[attr-defined]


def _round_whole_floats(dc: Any, cfg: Any) -> None:
    """Make 250000.0 of ``cfg`` 250000 where the config class ``dc`` wants an integer."""
    from omegaconf import DictConfig, IntegerNode, OmegaConf, open_dict, read_write

    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing():
        return
    floats = {}
    for key in cfg:
        node = cfg._get_node(key)
        value = node._value() if node is not None else None
        if isinstance(value, float) and value.is_integer():
            floats[key] = int(value)
    if not floats:
        return
    wanted = dc if isinstance(dc, DictConfig) else OmegaConf.structured(dc)
    with read_write(cfg), open_dict(cfg):
        for key, value in floats.items():
            if key in wanted and isinstance(wanted._get_node(key), IntegerNode):
                cfg[key] = value


def _say_where_user_dir_is_not(module: ModuleType) -> None:
    original = module.import_user_module

    @functools.wraps(original)
    def import_user_module(args: Any) -> None:
        user_dir = getattr(args, "user_dir", None)
        if user_dir == "":  # fairseq would import the current folder
            raise refusal('--user-dir is empty: did the command in "$(…)" fail?')
        if user_dir is not None and os.path.isfile(user_dir):
            raise refusal(f"--user-dir {user_dir}: is a file, a folder with an __init__.py is needed")
        try:
            original(args)
            if user_dir is not None and Path(user_dir).resolve() == PACKAGE:
                # fairseq imports nothing where the package has been imported already, before fairseq was.
                import_module("speechdlm_ext.plugin")
        except FileNotFoundError as error:
            if user_dir is None or error.errno is not None:  # an error of the module itself
                raise
            raise refusal(
                f"--user-dir {user_dir}: no such folder; `python -m speechdlm_ext --user-dir` prints the right one"
            ) from error

    module.import_user_module = import_user_module  # type: ignore[attr-defined]


REPAIRS = [
    Repair(
        name="whole-floats",
        package="fairseq",
        fault="ValidationError: Value '250000.0' could not be converted to Integer (options of old checkpoints)",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.dataclass.utils", _take_whole_floats_as_integers),
    ),
    Repair(
        name="missing-user-dir",
        package="fairseq",
        fault="FileNotFoundError and a traceback for a --user-dir that does not exist",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.utils", _say_where_user_dir_is_not),
    ),
]
