"""Audio to units: encoders, codebooks, unit files, and the commands' work over many recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechdlm_ext.units.codebook import Codebook
    from speechdlm_ext.units.codebook_files import load_codebook
    from speechdlm_ext.units.encoder import Encoder, build_encoder
    from speechdlm_ext.units.hubert import HubertEncoder
    from speechdlm_ext.units.logmel import LogMelEncoder
    from speechdlm_ext.units.quantizer import DPDPQuantizer
    from speechdlm_ext.units.streaming import StreamingQuantizer
    from speechdlm_ext.units.wavlm import WavLMEncoder

# Loaded when first asked for: unit files are read and written without torch.
_HOMES = {
    "Codebook": "speechdlm_ext.units.codebook",
    "DPDPQuantizer": "speechdlm_ext.units.quantizer",
    "Encoder": "speechdlm_ext.units.encoder",
    "HubertEncoder": "speechdlm_ext.units.hubert",
    "LogMelEncoder": "speechdlm_ext.units.logmel",
    "StreamingQuantizer": "speechdlm_ext.units.streaming",
    "WavLMEncoder": "speechdlm_ext.units.wavlm",
    "build_encoder": "speechdlm_ext.units.encoder",
    "load_codebook": "speechdlm_ext.units.codebook_files",
}
__all__ = [
    "Codebook",
    "DPDPQuantizer",
    "Encoder",
    "HubertEncoder",
    "LogMelEncoder",
    "StreamingQuantizer",
    "WavLMEncoder",
    "build_encoder",
    "load_codebook",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
