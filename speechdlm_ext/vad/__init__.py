"""Speech detectors behind one interface; ``DETECTORS`` is the list of them."""

from __future__ import annotations

from dataclasses import fields

from speechdlm_ext.errors import InputError
from speechdlm_ext.vad.base import Annotation, Detector, Speech, with_options
from speechdlm_ext.vad.energy import Energy
from speechdlm_ext.vad.field import Field
from speechdlm_ext.vad.marblenet import MarbleNet
from speechdlm_ext.vad.pyannote import Pyannote
from speechdlm_ext.vad.rttm import RTTM
from speechdlm_ext.vad.silero import Silero
from speechdlm_ext.vad.ten import Ten
from speechdlm_ext.vad.units import Units

__all__ = ["DETECTORS", "Annotation", "Detector", "Speech", "build_detector", "detector_help"]

DETECTORS: dict[str, type[Detector]] = {
    kind.name: kind for kind in (Silero, Energy, Ten, Pyannote, MarbleNet, Units, RTTM, Field)
}


def build_detector(spec: str) -> Detector:
    """The detector that ``--vad`` names: ``NAME``, or ``NAME:OPTION=VALUE,…`` (``silero:pad=0.2``).

    Raises:
        InputError: no such detector or option.
    """
    name, _, options = spec.partition(":")
    if name not in DETECTORS:
        raise InputError(f"--vad {spec}: no such detector; expected one of {', '.join(DETECTORS)}")
    return with_options(DETECTORS[name], options)


def detector_help() -> str:
    """One line on each detector and its options, for ``--help``."""
    lines = []
    for name, kind in DETECTORS.items():
        defaults = kind()
        options = ", ".join(f"{field.name}={getattr(defaults, field.name)}" for field in fields(kind))
        what = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        lines.append(f"{name}: {what} ({options})" if options else f"{name}: {what}")
    return "; ".join(lines)
