"""Layers that reach into torch for a fast path which is no longer what it was."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from ..imports import after_import
from ..repair import Repair, at_least


def _keep_to_the_trained_path(module: ModuleType) -> None:
    layer = module.TransformerEncoderLayerBase
    original = layer.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        # The encoder and its layers both ask for it before they take the fast path.
        self.can_use_fastpath = False

    layer.__init__ = __init__


REPAIRS = [
    Repair(
        name="encoder-fast-path",
        package="fairseq",
        fault="RuntimeError: Mask Type should be defined (generation with a post-norm transformer encoder)",
        versions="torch ≥ 2.0",
        needed=lambda: at_least("torch", 2),
        apply=lambda: after_import("fairseq.modules.transformer_layer", _keep_to_the_trained_path),
    ),
]
