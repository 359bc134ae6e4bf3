"""What ``speechdlm_ext.pth`` calls on the first import of a package that today's Python or PyTorch breaks.

It loads ``speechdlm_ext.compat``, by its path and without the package around it, has the repairs made, and lets the
import go on. Whatever fails here costs one line on standard error, never the import. The finder that the .pth file
installs stands in setup.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from threading import RLock
from types import ModuleType
from typing import Any

COMPAT = "speechdlm_ext.compat"
_lock = RLock()
_started = False


def first_import(
    finder: Any, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
) -> ModuleSpec | None:
    """Make the repairs once, take ``finder`` off ``sys.meta_path``, and find ``name`` in its stead.

    The import that asks is walking through ``sys.meta_path``, which changes under its feet: it would step over the
    finder that the repairs put there. So the question is put to all finders again from here.
    """
    global _started
    with _lock:  # a second thread that imports one of the packages waits until the repairs stand
        if _started:
            return None
        _started = True
        try:
            (sys.modules.get(COMPAT) or _load_compat()).activate()
        except Exception as error:
            _warn(error)
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
    specs = (other.find_spec(name, path, target) for other in list(sys.meta_path))
    return next((spec for spec in specs if spec is not None), None)


def _load_compat() -> ModuleType:
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), *COMPAT.split("."))
    file = os.path.join(folder, "__init__.py")
    spec = spec_from_file_location(COMPAT, file, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {file}")
    module = module_from_spec(spec)
    sys.modules[COMPAT] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[COMPAT]
        raise
    return module


def _warn(error: Exception) -> None:
    if sys.stderr is not None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"speechdlm_ext: fairseq is not repaired ({reason}); install speechdlm_ext again", file=sys.stderr)
