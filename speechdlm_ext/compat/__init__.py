"""Stock fairseq and torchaudio on today's Python, numpy and PyTorch: repairs made as those packages are imported.

No other room of the package knows about versions, and this one knows no other room. It imports neither torch, numpy nor
fairseq when it is loaded, so that it can stand before the first ``import fairseq`` of any program.
"""

from __future__ import annotations

from importlib import import_module

from .imports import after_import, around_import, install_finder, is_loaded
from .quiet_imports import quiet
from .repair import Repair

__all__ = ["Repair", "activate", "after_import", "is_loaded", "report"]

# The modules whose REPAIRS are made, in this order. A new repair is a new file here and a name in this list.
_MODULES = (
    "python",
    "hydra",
    "dropped_names",
    "checkpoints",
    "torchaudio",
    "fairseq.safe_extract",
    "fairseq.safe_eval",
    "fairseq.configs",
    "fairseq.dictionary",
    "fairseq.layers",
    "fairseq.interactive",
    "fairseq.levenshtein",
    "fairseq.distributed",
    "fairseq.sharded",
    "fairseq.saving",
    "fairseq.training",
    "fairseq.early_stopping",
    "fairseq.tensorboard",
    "registry",
    "commands",
    "sweeps",
)
_active: set[str] = set()


def _repairs() -> list[Repair]:
    return [repair for name in _MODULES for repair in import_module(f"{__name__}.{name}").REPAIRS]


def activate() -> None:
    """Make every repair that the installed versions need. A second call does nothing."""
    install_finder()
    if not _active:
        around_import("fairseq", lambda module: quiet())
    for repair in _repairs():
        if repair.name not in _active and repair.needed():
            _active.add(repair.name)
            repair.make()


def report() -> list[tuple[Repair, str]]:
    """All repairs, each with "in force", "not needed" (by the versions here) or "skipped: <why it does not fit>"."""
    return [(repair, repair.misfit() if repair.name in _active else "not needed") for repair in _repairs()]
