"""Trained models for use from Python and from the scripts."""

from speechdlm_ext.hub.load import load_model, load_speech_dlm, load_unit_lm
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.hub.scoring import DialogueScore
from speechdlm_ext.hub.unit_model import UnitModel, UnitSample
from speechdlm_ext.hub.unit_scoring import UnitScore

__all__ = [
    "DialogueModel",
    "DialogueScore",
    "UnitModel",
    "UnitSample",
    "UnitScore",
    "load_model",
    "load_speech_dlm",
    "load_unit_lm",
]
