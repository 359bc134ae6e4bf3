"""Options: those of old checkpoints, a --user-dir that is not there, seeds, and options that two parts declare."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from speechdlm_ext.compat.commands import user_folders
from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.imports import PLUGIN
from speechdlm_ext.compat.repair import Repair, replace

PACKAGE = Path(__file__).resolve().parents[2]
_LARGEST_SEED = 2**32 - 1  # numpy's


def _take_whole_floats_as_integers(module: Any) -> None:
    original = module.merge_with_parent

    @replace(module, "merge_with_parent")
    def merge_with_parent(dc: Any, cfg: Any, *args: Any, **options: Any) -> Any:
        _round_whole_floats(dc, cfg)
        return original(dc, cfg, *args, **options)


def _round_whole_floats(dc: Any, cfg: Any) -> None:
    """Make 250000.0 of ``cfg`` 250000 where the config class ``dc`` has an integer."""
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
    expected = dc if isinstance(dc, DictConfig) else OmegaConf.structured(dc)
    with read_write(cfg), open_dict(cfg):
        for key, value in floats.items():
            if key in expected and isinstance(expected._get_node(key), IntegerNode):
                cfg[key] = value


def _import_user_folder(module: Any) -> None:
    original = module.import_user_module

    @replace(module, "import_user_module")
    def import_user_module(args: Any) -> None:
        user_dir = getattr(args, "user_dir", None)
        if user_dir == "":  # fairseq would import the current folder
            raise InputError('--user-dir is empty: did the command in "$(…)" fail?')
        if user_dir is None:
            return
        if os.path.isfile(user_dir):
            raise InputError(f"--user-dir {user_dir}: is a file; a folder with an __init__.py is needed")
        user_folders.add(os.path.abspath(user_dir))
        try:
            original(args)
        except FileNotFoundError as error:
            if error.errno is not None:  # an error of the module itself
                raise
            raise InputError(
                f"--user-dir {user_dir}: no such folder; `python -m speechdlm_ext --user-dir` prints the right one"
            ) from error
        if Path(user_dir).resolve() == PACKAGE:
            # fairseq imports nothing where the package has been imported already, before fairseq was.
            import_module(PLUGIN)


def check_seed(seed: Any) -> None:
    """Raise :class:`InputError` for a seed that the generators of numpy and torch do not both take."""
    if isinstance(seed, int) and not 0 <= seed <= _LARGEST_SEED:
        raise InputError(f"--seed {seed}: a number from 0 to {_LARGEST_SEED} is expected")


def _check_options(module: Any) -> None:
    original = module.parse_args_and_arch

    @replace(module, "parse_args_and_arch")
    def parse_args_and_arch(*args: Any, **options: Any) -> Any:
        try:
            parsed = original(*args, **options)
        except KeyError as error:
            if error.args != (None,):  # fairseq-validate looks its task up before it asks whether there is one
                raise
            raise InputError("--task is missing: name the task that the model was trained for") from error
        namespace = parsed[0] if isinstance(parsed, tuple) else parsed
        check_seed(getattr(namespace, "seed", None))
        if getattr(namespace, "bf16", False) and find_spec("torch_xla") is None:
            namespace.tpu = False
        return parsed


class _WithoutKnownOptions:
    """A parser that passes over the options which it has already."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def add_argument(self, *names: str, **options: Any) -> Any:
        known = self._parser._option_string_actions
        return known[names[0]] if names[0] in known else self._parser.add_argument(*names, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


def _pass_over_known_options(module: Any) -> None:
    original = module.DenoisingTask.add_args

    def add_args(parser: Any) -> None:
        original(_WithoutKnownOptions(parser))

    module.DenoisingTask.add_args = staticmethod(add_args)


REPAIRS = [
    Repair(
        name="whole-floats",
        package="fairseq",
        fault="ValidationError: Value '250000.0' could not be converted to Integer (options of old checkpoints)",
        changes={"fairseq.dataclass.utils": _take_whole_floats_as_integers},
    ),
    Repair(
        name="user-dir",
        package="fairseq",
        fault="FileNotFoundError and a traceback for a --user-dir that does not exist; ours is not registered where it "
        "was imported before fairseq",
        changes={"fairseq.utils": _import_user_folder},
    ),
    Repair(
        name="checked-options",
        package="fairseq",
        fault="AttributeError: 'NoneType' object has no attribute 'xla_device' (--bf16 is taken for --tpu); "
        "RuntimeError: Overflow when unpacking long long (--seed); KeyError: None (no --task)",
        changes={"fairseq.options": _check_options},
    ),
    Repair(
        name="denoising-options",
        package="fairseq",
        fault="ArgumentError: conflicting option string: --max-source-positions (--task denoising with BART)",
        changes={"fairseq.tasks.denoising": _pass_over_known_options},
    ),
]
