"""Likelihood of the units of a corpus by a dialogue model: bits per edge unit, and errors of its durations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import Dialogue
from speechdlm_ext.evaluation.eval_set import EvalSet
from speechdlm_ext.evaluation.schema import channel_name
from speechdlm_ext.modules.devices import open_device
from speechdlm_ext.units.files import format_units

_BATCH = 16  # dialogues


def load_model(checkpoint: Path, data: Path | None) -> Any:
    """The model of a checkpoint (with the folder of its dictionaries), or of a folder of ``save_pretrained``.

    Raises:
        InputError: there is no such checkpoint, or its dictionaries are not named.
    """
    from speechdlm_ext.hub import load_speech_dlm

    if checkpoint.is_dir():
        model = load_speech_dlm(checkpoint)
    elif not checkpoint.is_file():
        raise InputError(f"--checkpoint {checkpoint}: no such file or folder")
    elif data is None:
        raise InputError(f"--checkpoint {checkpoint}: the folder with its dictionaries is needed: pass --data")
    else:
        model = load_speech_dlm(checkpoint.parent, checkpoint.name, data)
    model.to(device=open_device(None))
    return model.eval()


def likelihood_figures(model: Any, own: EvalSet) -> dict[str, Any]:
    """Of each channel and of all together.

    What lies before a dialogue's window, such as its prompt, conditions the model and does not count.

    Returns:
        By channel A, B, … and ``all``: ``edge_bits`` (bits of a unit that differs from the one before it),
        ``unit_bits`` (bits of a frame), ``duration_error`` (mean absolute error of the runs' lengths, in frames), and
        the ``edges`` that these are means of; ``reason``: None, or why figures are None.

    Raises:
        InputError: a dialogue has other channels or units than the model.
    """
    rows = [(dialogue, window) for dialogue, window in zip(own.dialogues, own.windows, strict=True) if dialogue.units]
    sums = np.zeros((len(model.channels), 5))  # edges, their nats, frames, their nats, known durations …
    errors = np.zeros(len(model.channels))
    for first in range(0, len(rows), _BATCH):
        part = rows[first : first + _BATCH]
        for score, (dialogue, (start, _)) in zip(model.score([_text(model, *row) for row in part]), part, strict=True):
            begin = round(start * dialogue.frame_rate)
            edges, nats = score.edges[begin:].numpy(), score.log_probabilities[begin:].double().numpy()
            off = score.duration_errors[begin:].double().numpy()
            known = edges & np.isfinite(off)
            columns = (edges, np.where(edges, nats, 0), np.ones_like(nats), nats, known)
            sums += np.stack([column.sum(axis=0) for column in columns], axis=1)
            errors += np.where(known, off, 0).sum(axis=0)
    figures = {channel_name(c): _means(sums[c], errors[c]) for c in range(len(sums))}
    return {**figures, "all": _means(sums.sum(axis=0), errors.sum())}


def _text(model: Any, dialogue: Dialogue, window: tuple[float, float]) -> dict[str, str]:
    names: Sequence[str] = model.channels
    if len(names) != len(dialogue.units):
        raise InputError(f"{dialogue.name} has {len(dialogue.units)} channels, the model of --checkpoint {len(names)}")
    last = round(sum(window) * dialogue.frame_rate)
    return {name: format_units(units[:last]) for name, units in zip(names, dialogue.units, strict=True)}


def _means(sums: np.ndarray, errors: float) -> dict[str, Any]:
    edges, edge_nats, frames, nats, known = map(float, sums)
    return {
        "edges": int(edges),
        "edge_bits": -edge_nats / edges / math.log(2) if edges else None,
        "unit_bits": -nats / frames / math.log(2) if frames else None,
        "duration_error": float(errors) / known if known else None,
        "reason": None if known else "no unit was scored" if not edges else "the model predicts no durations",
    }
