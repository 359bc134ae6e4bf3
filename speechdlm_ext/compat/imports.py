"""Callbacks around the import of other packages' modules: how every repair gets its hands on one."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], object]
Surrounding = Callable[[ModuleType], AbstractContextManager[object]]

PLUGIN = "speechdlm_ext.plugin"  # registers what this package adds to fairseq

_after: dict[str, list[Callback]] = {}
_around: dict[str, list[Surrounding]] = {}
_supplied: dict[str, Callback] = {}


def after_import(module_name: str, callback: Callback) -> None:
    """Run ``callback(module)`` when the module's code has run, or now if it has run already.

    ``module_name`` may end in ``.*``: then every module below that package is meant. A callback that raises makes the
    import fail, so callbacks check what they touch.
    """
    _after.setdefault(module_name, []).append(callback)
    if module_name.endswith(".*"):
        loaded = [name for name in sys.modules if name.startswith(module_name[:-1])]
    else:
        loaded = [module_name]
    for name in loaded:
        module = sys.modules.get(name)
        if module is not None and not _still_running(module):
            callback(module)


def around_import(module_name: str, surrounding: Surrounding) -> None:
    """Run the module's code inside the context manager ``surrounding(module)``."""
    _around.setdefault(module_name, []).append(surrounding)


def supply_module(module_name: str, fill: Callback) -> None:
    """Let ``import module_name`` give an empty module that ``fill`` has filled, where nothing else provides one."""
    _supplied[module_name] = fill


def is_loaded(module_name: str) -> bool:
    """Whether the module has been imported, to its end."""
    module = sys.modules.get(module_name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _still_running(module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    hooked = getattr(getattr(spec, "loader", None), "_speechdlm", False)
    return bool(hooked and getattr(spec, "_initializing", False))


def _callbacks(name: str) -> Iterator[Callback]:
    yield from _after.get(name, ())
    parent = name.rpartition(".")[0]
    while parent:
        yield from _after.get(f"{parent}.*", ())
        parent = parent.rpartition(".")[0]


class _Supplier:
    """Loader of modules that exist nowhere on disk."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        _supplied[module.__name__](module)


class _Delegate:
    """A loader that takes no attributes, with another ``exec_module``."""

    _speechdlm = True

    def __init__(self, loader: object, exec_module: Callback) -> None:
        self._loader = loader
        self.exec_module = exec_module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class PostImportFinder:
    """First entry of ``sys.meta_path``: lets the others find the module, and wraps the running of its code."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        watched = name in _around or name in _supplied or any(True for _ in _callbacks(name))
        if not watched:
            return None
        spec = self._find_elsewhere(name, path, target)
        if spec is None and name in _supplied:
            return importlib.machinery.ModuleSpec(name, _Supplier())  # type: ignore[arg-type]
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._wrap(spec)
        return spec

    def _find_elsewhere(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> importlib.machinery.ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None

    def _wrap(self, spec: importlib.machinery.ModuleSpec) -> None:
        loader = spec.loader
        assert loader is not None
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with ExitStack() as stack:
                for surrounding in _around.get(module.__name__, ()):
                    stack.enter_context(surrounding(module))
                run(module)
            for callback in list(_callbacks(module.__name__)):
                callback(module)

        try:
            # On the instance: the loader keeps its class, which inspect, pickle and runpy ask for.
            loader.exec_module = exec_module  # type: ignore[method-assign]
            loader._speechdlm = True  # type: ignore[attr-defined]
        except AttributeError:  # of a class with __slots__
            spec.loader = _Delegate(loader, exec_module)  # type: ignore[assignment]


def install_finder() -> None:
    """Put the finder in place, once."""
    if not any(isinstance(finder, PostImportFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PostImportFinder())
