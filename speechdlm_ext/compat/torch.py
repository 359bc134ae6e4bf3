"""torch.load as fairseq calls it: by default it cannot read fairseq's own files since 2.6, and should not read all."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from .imports import after_import
from .repair import Repair, always

_CALLERS = ("fairseq", "fairseq_cli")


def _called_from_fairseq(depth: int) -> bool:
    frame = sys._getframe(depth)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _CALLERS


def _load_safely_for_fairseq(module: ModuleType) -> None:
    original = module.load

    @functools.wraps(original)
    def load(*args: Any, **options: Any) -> Any:
        if not _called_from_fairseq(2):
            return original(*args, **options)
        from .checkpoints import load as load_with_allow_list

        return load_with_allow_list(*args, **options)

    load._speechdlm_original = original  # type: ignore[attr-defined]
    module.load = load  # type: ignore[attr-defined]


REPAIRS = [
    Repair(
        name="checkpoint-loading",
        package="torch",
        fault="UnpicklingError: Weights only load failed, for fairseq's own checkpoints; and, where that is switched "
        "off, checkpoints that run code when they are loaded",
        versions="all",
        needed=always,
        apply=lambda: after_import("torch", _load_safely_for_fairseq),
    ),
]
