"""Trained models for use from Python and from the scripts."""

from speechdlm_ext.hub import dpslm
from speechdlm_ext.hub.dpslm import *  # noqa: F403
from speechdlm_ext.hub.duplex import DuplexS2SModel, DuplexS2SSpeechDecoderModel
from speechdlm_ext.hub.load import load_model, load_speech_dlm, load_unit_lm
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.hub.scoring import DialogueScore
from speechdlm_ext.hub.speech import CTCModel, SpeechClassifier
from speechdlm_ext.hub.unit_model import UnitModel, UnitSample
from speechdlm_ext.hub.unit_scoring import UnitScore
from speechdlm_ext.hub.unit_to_codec import UnitToCodec
from speechdlm_ext.models.salm import SALM
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer

__all__ = [
    "SALM",
    "CTCModel",
    "DialogueModel",
    "DialogueScore",
    "DuplexS2SModel",
    "DuplexS2SSpeechDecoderModel",
    "SpeechClassifier",
    "UnitModel",
    "UnitSample",
    "UnitScore",
    "UnitToCodec",
    "WavTokenizer",
    "load_model",
    "load_speech_dlm",
    "load_unit_lm",
    *dpslm.__all__,
]
