"""Stock fairseq and torchaudio on today's Python, numpy and PyTorch: repairs made as those packages are imported.

No other room of the package knows about versions. This one imports nothing from the others when it is loaded, nor
torch, numpy or fairseq, so that it can stand before the first ``import fairseq`` of any program.
"""

from __future__ import annotations

from .imports import after_import, around_import, install_finder, is_loaded
from .quiet_imports import quiet
from .repair import Repair, RepairState

__all__ = ["Repair", "RepairState", "activate", "after_import", "is_loaded", "report"]

_active: set[str] = set()


def _repairs() -> list[Repair]:
    from .repairs import REPAIRS

    return REPAIRS


def activate() -> None:
    """Apply every repair that the installed versions need. A second call does nothing."""
    install_finder()
    if not _active:
        around_import("fairseq", lambda module: quiet())
    for repair in _repairs():
        if repair.name not in _active and repair.needed():
            _active.add(repair.name)
            repair.apply()


def report() -> list[RepairState]:
    """All repairs, and whether each is in force here."""
    return [
        RepairState(repair.name, repair.package, repair.fault, repair.versions, repair.name in _active)
        for repair in _repairs()
    ]
