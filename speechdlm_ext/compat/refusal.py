"""Errors that a user can mend, raised from below the package: ``speechdlm_ext.errors`` without what is around it."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

_NAME = "speechdlm_ext.errors"


def errors_module() -> ModuleType:
    """The module ``speechdlm_ext.errors``; importing it by name would register all our models with fairseq."""
    if _NAME not in sys.modules:
        spec = spec_from_file_location(_NAME, Path(__file__).resolve().parents[1] / "errors.py")
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


def refusal(message: str) -> Exception:
    """An ``InputError`` to raise, with this one line."""
    error: Exception = errors_module().InputError(" ".join(message.split()))
    return error
