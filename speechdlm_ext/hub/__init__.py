"""Trained models for use from Python and from the scripts."""

# Before any module here: fairseq registers what this package offers as soon as it is imported, which loads these rooms.
import fairseq  # noqa: F401

from speechdlm_ext.hub.checkpoints import load_speech_dlm
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.hub.scoring import DialogueScore

__all__ = ["DialogueModel", "DialogueScore", "load_speech_dlm"]
