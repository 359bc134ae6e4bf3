"""Trained models for use from Python and from the scripts."""

# Before any module here, and with it fairseq, which loads these rooms as soon as it is imported.
import speechdlm_ext.modules  # noqa: F401, I001
from speechdlm_ext.hub.checkpoints import load_speech_dlm
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.hub.scoring import DialogueScore
from speechdlm_ext.hub.unit_checkpoints import load_unit_lm
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
