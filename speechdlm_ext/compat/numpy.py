"""Names that numpy dropped and fairseq still uses: np.int, np.float, np.compat.long."""

from __future__ import annotations

import types

from .imports import after_import
from .repair import Repair, at_least

# The only modules of fairseq 0.12.2 that its commands import and that use such a name.
_MODULES = (
    "fairseq.data.data_utils",
    "fairseq.data.language_pair_dataset",
    "fairseq.data.token_block_dataset",
    "fairseq.modules.dynamic_crf_layer",
)


def _numpy_with_aliases() -> types.ModuleType:
    import numpy

    # A copy of the namespace, not a proxy: attribute access stays as fast as numpy's own.
    aliased = types.ModuleType("numpy", "numpy, with the aliases of Python's types that it once had.")
    vars(aliased).update(vars(numpy))
    # Only these: code that asks for another dropped name should say so.
    for name, value in {"int": int, "float": float, "compat": types.SimpleNamespace(long=int)}.items():
        vars(aliased).setdefault(name, value)
    return aliased


def _give_aliases(module: types.ModuleType) -> None:
    module.np = _numpy_with_aliases()  # type: ignore[attr-defined]


def _repair_aliases() -> None:
    for name in _MODULES:
        after_import(name, _give_aliases)


REPAIRS = [
    Repair(
        name="numpy-aliases",
        package="fairseq",
        fault="AttributeError: module 'numpy' has no attribute 'int' / 'float' / 'compat'",
        versions="numpy ≥ 1.24",
        needed=lambda: at_least("numpy", 1, 24),
        apply=_repair_aliases,
    ),
]
