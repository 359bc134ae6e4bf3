"""hydra 1.0 on today's Python: its plugins, and its way to print an error."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
import types
from collections.abc import Iterator
from typing import Any

from .repair import Repair, below, python_at_least, replace


class _Importer:
    """Stands for the finders that lost find_module() in Python 3.12; hydra wants nothing else of them."""

    @classmethod
    def find_module(cls, name: str) -> type[_Importer]:
        return cls

    @staticmethod
    def load_module(name: str) -> types.ModuleType:
        return importlib.import_module(name)


def _walk_packages(*args: Any, **options: Any) -> Iterator[tuple[type[_Importer], str, bool]]:
    for _, name, is_package in pkgutil.walk_packages(*args, **options):
        yield _Importer, name, is_package


def _give_plugins_an_importer(module: Any) -> None:
    module.pkgutil.walk_packages  # noqa: B018 - what it calls
    stand_in = types.ModuleType("pkgutil")
    vars(stand_in).update(vars(pkgutil))
    vars(stand_in)["walk_packages"] = _walk_packages
    module.pkgutil = stand_in


def _let_it_print_exceptions(module: Any) -> None:
    @replace(module, "print_exception")
    def print_exception(etype: Any, value: BaseException, tb: Any) -> None:
        # The whole traceback: what hydra made of it to leave its own frames out is no traceback to Python any more.
        traceback.print_exception(value)


REPAIRS = [
    Repair(
        name="hydra-plugins",
        package="hydra-core",
        fault="AttributeError: 'FileFinder' object has no attribute 'find_module'",
        versions="Python ≥ 3.12 with hydra-core < 1.2",
        needed=lambda: python_at_least(3, 12) and below("hydra-core", 1, 2),
        changes={"hydra.core.plugins": _give_plugins_an_importer},
    ),
    Repair(
        name="hydra-tracebacks",
        package="hydra-core",
        fault="TypeError: print_exception() got an unexpected keyword argument 'etype', in place of the real error",
        versions="Python ≥ 3.10 with hydra-core < 1.2",
        needed=lambda: python_at_least(3, 10) and below("hydra-core", 1, 2),
        changes={"hydra._internal.utils": _let_it_print_exceptions},
    ),
]
