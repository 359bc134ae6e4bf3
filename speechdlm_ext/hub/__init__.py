"""Trained models for use from Python and from the scripts."""

from speechdlm_ext.hub.load_dialogue_model import load_speech_dlm
from speechdlm_ext.hub.load_unit_model import load_unit_lm
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
    "load_speech_dlm",
    "load_unit_lm",
]
