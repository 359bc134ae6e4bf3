"""What Python itself took away: mutable dataclass defaults (3.11) and the module typing.io (3.13)."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .imports import around_import
from .repair import Repair, below, python_at_least

# Since 3.11 dataclasses takes "unhashable" for "mutable" and refuses such a default. An identity hash leaves
# Field.default in place, which fairseq reads; a default_factory would not. hydra and fairseq use their configs by
# reference, so identity is also what they mean.


def _hash_by_identity(cls: type) -> None:
    if cls.__hash__ is None:
        cls.__hash__ = object.__hash__


def _make_defaults_hashable(cls: type) -> None:
    """Let the dataclass instances that are defaults in the body of ``cls`` be defaults on Python 3.11, too."""
    for value in list(vars(cls).values()):
        default = value.default if isinstance(value, dataclasses.Field) else value
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            _hash_by_identity(type(default))


def _teach_base_config(base: Any) -> None:
    """Make every config class derived from ``base`` usable as a default, in fairseq and in user modules.

    A class of its own gets its hash with its first instance, after ``@dataclass`` has seen it, so that
    ``@dataclass(unsafe_hash=True)`` goes on working. Plain dataclasses get it when a config class uses them.
    """

    def __new__(cls: type, *args: object, **kwargs: object) -> Any:
        _hash_by_identity(cls)
        return object.__new__(cls)

    def __init_subclass__(cls: type, **kwargs: object) -> None:
        super(base, cls).__init_subclass__(**kwargs)
        _make_defaults_hashable(cls)

    base.__new__ = __new__
    base.__init_subclass__ = classmethod(__init_subclass__)


@contextmanager
def _dataclass_decorator(module_name: str, treat: Callable[[type], None]) -> Iterator[None]:
    """While the module runs, ``treat`` every class of it that is made a dataclass; leave all other classes alone."""
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda cls: dataclass(cls, **options)
        made = original(cls, **options)
        if cls.__module__ == module_name:
            treat(made)
        return made

    before = set(sys.modules)
    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original
        for name in {*sys.modules} - before | {module_name}:  # what it imports has taken the substitute, too
            module = sys.modules.get(name)
            for key, value in list(vars(module).items()) if isinstance(module, types.ModuleType) else ():
                if value is dataclass:
                    setattr(module, key, original)


def _treat_fairseq(cls: type) -> None:
    if cls.__name__ == "FairseqDataclass":
        _teach_base_config(cls)


def _repair_fairseq_dataclasses() -> None:
    around_import("fairseq.dataclass.configs", lambda module: _dataclass_decorator(module.__name__, _treat_fairseq))


def _repair_hydra_dataclasses() -> None:
    around_import("hydra.conf", lambda module: _dataclass_decorator(module.__name__, _hash_by_identity))


def _supply_typing_io() -> None:
    # typing is no package, so the import system asks no finder: the module has to be there already.
    module = types.ModuleType("typing.io", "The abstract file types, where they were until Python 3.12.")
    vars(module).update(IO=typing.IO, TextIO=typing.TextIO, BinaryIO=typing.BinaryIO)
    sys.modules.setdefault("typing.io", module)


REPAIRS = [
    Repair(
        name="fairseq-config-defaults",
        package="fairseq",
        fault="ValueError: mutable default <class '…Config'> for field … is not allowed: use default_factory "
        "(fairseq's own config classes, and those of a --user-dir module)",
        versions="Python ≥ 3.11",
        needed=lambda: python_at_least(3, 11),
        at_once=_repair_fairseq_dataclasses,
    ),
    Repair(
        name="hydra-config-defaults",
        package="hydra-core",
        fault="ValueError: mutable default <class 'hydra.conf.JobConf.JobConfig'> for field config is not allowed",
        versions="Python ≥ 3.11 with hydra-core < 1.2",
        needed=lambda: python_at_least(3, 11) and below("hydra-core", 1, 2),
        at_once=_repair_hydra_dataclasses,
    ),
    Repair(
        name="typing-io",
        package="antlr4-python3-runtime",
        fault="ModuleNotFoundError: No module named 'typing.io'",
        versions="Python ≥ 3.13 with antlr4-python3-runtime < 4.9",
        needed=lambda: python_at_least(3, 13) and below("antlr4-python3-runtime", 4, 9),
        at_once=_supply_typing_io,
    ),
]
