"""Units to audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechdlm_ext.vocoders.base import Vocoder
    from speechdlm_ext.vocoders.codebook_inversion import CodebookVocoder
    from speechdlm_ext.vocoders.hifigan import HiFiGANVocoder

_HOMES = {
    "CodebookVocoder": "speechdlm_ext.vocoders.codebook_inversion",
    "HiFiGANVocoder": "speechdlm_ext.vocoders.hifigan",
    "Vocoder": "speechdlm_ext.vocoders.base",
}
__all__ = ["CodebookVocoder", "HiFiGANVocoder", "Vocoder"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
