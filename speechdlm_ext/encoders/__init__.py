"""Audio to features: log-mel, HuBERT, WavLM, any encoder of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechdlm_ext.encoders.base import Encoder, build_encoder
    from speechdlm_ext.encoders.hf import TransformersEncoder
    from speechdlm_ext.encoders.hubert import HubertEncoder
    from speechdlm_ext.encoders.logmel import LogMelEncoder
    from speechdlm_ext.encoders.wavlm import WavLMEncoder

# Loaded when first asked for: --help does not wait for torch.
_HOMES = {
    "Encoder": "speechdlm_ext.encoders.base",
    "HubertEncoder": "speechdlm_ext.encoders.hubert",
    "LogMelEncoder": "speechdlm_ext.encoders.logmel",
    "TransformersEncoder": "speechdlm_ext.encoders.hf",
    "WavLMEncoder": "speechdlm_ext.encoders.wavlm",
    "build_encoder": "speechdlm_ext.encoders.base",
}
__all__ = ["Encoder", "HubertEncoder", "LogMelEncoder", "TransformersEncoder", "WavLMEncoder", "build_encoder"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
