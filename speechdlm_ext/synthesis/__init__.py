"""Units to audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechdlm_ext.synthesis.codebook_vocoder import CodebookVocoder
    from speechdlm_ext.synthesis.hifigan import HiFiGANVocoder
    from speechdlm_ext.synthesis.vocoder import Vocoder

_HOMES = {
    "CodebookVocoder": "speechdlm_ext.synthesis.codebook_vocoder",
    "HiFiGANVocoder": "speechdlm_ext.synthesis.hifigan",
    "Vocoder": "speechdlm_ext.synthesis.vocoder",
}
__all__ = ["CodebookVocoder", "HiFiGANVocoder", "Vocoder"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
