"""Features to units: codebooks, k-means, the duration-penalized quantizer, unit files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechdlm_ext.units.codebook import Codebook
    from speechdlm_ext.units.codebook_files import load_codebook
    from speechdlm_ext.units.quantizer import DPDPQuantizer

# Loaded when first asked for: unit files are read and written without torch.
_HOMES = {
    "Codebook": "speechdlm_ext.units.codebook",
    "DPDPQuantizer": "speechdlm_ext.units.quantizer",
    "load_codebook": "speechdlm_ext.units.codebook_files",
}
__all__ = ["Codebook", "DPDPQuantizer", "load_codebook"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
