"""Loading unit language models: of fairseq-train, of ``save_pretrained``, and as DP-SLM and AMELA publish them."""

from __future__ import annotations

import os
from pathlib import Path

from speechdlm_ext.checkpoints.pretrained_folder import model_type
from speechdlm_ext.checkpoints.published_unit_lms import locate_unit_lm
from speechdlm_ext.checkpoints.unit_lm_files import KINDS, build, read_form
from speechdlm_ext.checkpoints.unit_lm_folder import load_unit_folder
from speechdlm_ext.checkpoints.weights import check_finite
from speechdlm_ext.data.binarized_corpus import CorpusFolder
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub.unit_model import UnitModel
from speechdlm_ext.models.unit_language_model import UnitLanguageModel


def load_unit_lm(
    model_name_or_path: str | os.PathLike[str],
    checkpoint_file: str = "model.pt",
    data_name_or_path: str | os.PathLike[str] | None = None,
    trust: bool | None = None,
    frame_rate: float | None = None,
) -> UnitModel:
    """Load one model or an ensemble.

    Args:
        model_name_or_path: a checkpoint of fairseq-train, a file of DP-SLM, or the folder of either; a folder of
            :meth:`UnitModel.save_pretrained` or of AMELA; or the name of a published model.
        checkpoint_file: its name in that folder; several, separated by colons, make an ensemble.
        data_name_or_path: folder of binarized data, whose units must be those of the model, which does not need it.
        trust: whether loading may run code that is in the checkpoint, as pickles can; by default that is refused unless
            SPEECHDLM_TRUST_CHECKPOINTS is set.
        frame_rate: frames a second of durations, or of units that are not deduplicated (default: the checkpoint's).

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        InputError: a file is missing or damaged, or is not of a unit language model, or would run code; its weights are
            not numbers, or not those of its options; the data are of another codebook.
    """
    models: list[UnitLanguageModel] = []
    rates = []
    for path in _places(os.fspath(model_name_or_path), checkpoint_file):
        if os.path.isdir(path) and model_type(path) in KINDS:
            model, rate = load_unit_folder(path)
        else:
            form = read_form(path, trust)
            model, rate = build(form, os.fspath(path)), form.frame_rate
            check_finite(model, os.fspath(path))
        models.append(model)
        rates.append(rate)
    found = UnitModel(models, frame_rate or rates[0])
    if data_name_or_path is not None:
        corpus = CorpusFolder(os.fspath(data_name_or_path))
        of_the_data = UnitDictionary.of(corpus.dictionary, corpus.path)
        if of_the_data.units > found.units:
            raise InputError(
                f"{corpus.path} has units up to {of_the_data.units - 1}, the model knows 0 to {found.units - 1}: it is "
                "a model of units of another codebook"
            )
    return found


def _places(given: str, names: str) -> list[Path]:
    """The files or folders to read."""
    if os.path.isdir(given):
        paths = [Path(given, name) for name in names.split(os.pathsep)]
        return paths if paths[0].exists() else [Path(given)]
    if os.pathsep in given:
        return [Path(name) for name in given.split(os.pathsep)]
    return [Path(locate_unit_lm(given))]
