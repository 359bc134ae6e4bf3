"""What Python imports at start-up through ``speechdlm_ext.pth``: it waits for fairseq, and loads nothing before.

On the first import of a package that needs repairs on today's Python or PyTorch it loads ``speechdlm_ext.compat``, by
its path and without the package around it, and lets the import go on. Whatever fails here costs one line on standard
error, never the interpreter.
"""

import sys
from _thread import RLock  # built in; `threading` would be a file to load at every start of Python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import TypeAlias

    Spec: TypeAlias = ModuleSpec | None

PACKAGES = frozenset(("fairseq", "fairseq_cli", "hydra", "omegaconf", "torchaudio"))
COMPAT = "speechdlm_ext.compat"
_lock = RLock()


class FirstImport:
    """A finder that notices the first of the packages, has the repairs made, leaves, and passes the question on."""

    started = False

    @classmethod
    def find_spec(cls, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None) -> "Spec":
        if name not in PACKAGES:
            return None
        with _lock:  # a second thread that imports one of them waits until the repairs stand
            if cls.started:
                return None
            cls.started = True
            try:
                (sys.modules.get(COMPAT) or _load_compat()).activate()
            except Exception as error:
                _warn(error)
            sys.meta_path.remove(cls)
        # The import that brought us here is walking through sys.meta_path, which has just changed under its feet: it
        # would step over the finder that the repairs put there. So the question is asked again from here.
        for finder in list(sys.meta_path):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def _load_compat() -> "ModuleType":
    import os
    from importlib.util import module_from_spec, spec_from_file_location

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


sys.meta_path.insert(0, FirstImport)
