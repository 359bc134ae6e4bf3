"""Convolutional speech models from files: NeMo's ``.nemo``, checkpoints of fairseq-train, published names."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from speechdlm_ext.asr.text_tokenizer import NORMALISATIONS, CharacterTokenizer, PieceTokenizer, TextTokenizer
from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.nemo import NemoFile, read_nemo
from speechdlm_ext.io.published import Published, locate
from speechdlm_ext.modules.conv_speech import FRAMES, LABEL, TARGETS, TEXT, ConvSpeech
from speechdlm_ext.modules.weights import check_finite, check_weights

STATE = "speech_model"  # what checkpoints of fairseq-train know of the model, under "task_state"
_NGC = "https://api.ngc.nvidia.com/v2/models/nvidia"
# No digests are published.
PUBLISHED = {
    "QuartzNet15x5Base-En": Published(
        f"{_NGC}/nemospeechmodels/versions/1.0.0a5/files/QuartzNet15x5Base-En.nemo", ""
    ),
    **{
        name: Published(f"{_NGC}/nemo/{name}/versions/{version}/files/{name}.nemo", "")
        for version, names in {
            "1.0.0rc1": (
                "stt_en_quartznet15x5", "stt_en_jasper10x5dr", "stt_ca_quartznet15x5", "stt_it_quartznet15x5",
                "stt_fr_quartznet15x5", "stt_es_quartznet15x5", "stt_de_quartznet15x5", "stt_pl_quartznet15x5",
                "stt_ru_quartznet15x5", "stt_en_citrinet_256", "stt_en_citrinet_512", "stt_en_citrinet_1024",
                "vad_telephony_marblenet", "vad_marblenet", "commandrecognition_en_matchboxnet3x1x64_v1",
                "commandrecognition_en_matchboxnet3x2x64_v1", "commandrecognition_en_matchboxnet3x1x64_v2",
                "commandrecognition_en_matchboxnet3x2x64_v2",
            ),
            "1.0.0": ("stt_es_citrinet_512",),
            "1.5.0": ("stt_de_citrinet_1024",),
            "1.10.0": ("vad_multilingual_marblenet",),
            "1.20.0": ("vad_multilingual_frame_marblenet",),
        }.items()
        for name in names
    },
}  # fmt: skip
# NeMo's classes, and what their models predict.
CLASSES = {
    "EncDecCTCModel": TEXT,
    "EncDecCTCModelBPE": TEXT,
    "EncDecClassificationModel": LABEL,
    "EncDecFrameClassificationModel": FRAMES,
}


class SpeechModel(NamedTuple):
    """A network and the meaning of its outputs.

    Attributes:
        network: in evaluation mode, on the CPU.
        symbols: of its outputs, in order, the blank not among them; characters have ``|`` for the space.
        tokenizer: of its texts; None for classifiers.
        path: the file that it was read from.
    """

    network: ConvSpeech
    symbols: tuple[str, ...]
    tokenizer: TextTokenizer | None
    path: Path

    def expect(self, *targets: str) -> SpeechModel:
        """This model; raises :class:`InputError` where it predicts something else."""
        if self.network.target not in targets:
            raise InputError(
                f"{self.path}: a model of {self.network.target}, one of {' or '.join(targets)} is expected"
            )
        return self


def load_speech_model(path_or_name: str | os.PathLike[str]) -> SpeechModel:
    """Read a ``.nemo`` file, a checkpoint of fairseq-train, a folder with one, or a published model by name.

    No code in a file is run. Weights must be exactly those of the configuration.

    Raises:
        InputError: there is no such file or name; it is damaged, hostile, of another kind of model, or has weights that
            are not numbers.
    """
    path = locate(path_or_name, PUBLISHED)
    if path.is_dir():
        names = ("checkpoint_best.pt", "checkpoint_last.pt")
        found = [path / name for name in names if (path / name).is_file()] or sorted(path.glob("*.nemo"))[:1]
        if not found:
            raise InputError(f"{path}: neither {' nor '.join(names)} nor a .nemo file in it")
        path = found[0]
    model = _of_nemo(read_nemo(path)) if path.suffix == ".nemo" else _of_fairseq(path)
    check_finite(model.network, str(path))
    return model


def _of_nemo(file: NemoFile) -> SpeechModel:
    file.expect(*CLASSES)
    target, decoder = CLASSES[file.kind], file.config.get("decoder") or {}
    tokenizer: TextTokenizer | None = None
    if file.kind.endswith("BPE"):
        section = file.config.get("tokenizer") or {}
        if section.get("type", "bpe") != "bpe":
            raise InputError(f"{file.path}: a tokenizer of type {section['type']}; bpe (sentencepiece) is expected")
        tokenizer = PieceTokenizer(file.file(section.get("model_path")), source=f"{file.path}: tokenizer")
    elif target == TEXT:
        tokenizer = CharacterTokenizer([str(label) for label in decoder.get("vocabulary") or ()])
    labels = tokenizer.symbols if tokenizer else tuple(map(str, file.config.get("labels") or ()))
    weights = {name: value for name, value in file.weights.items() if name != "loss.weight"}
    config = {**file.config, "reflect": file.old_front_end}
    return _build(config, target, labels, tokenizer, weights, file.path)


def _of_fairseq(path: Path) -> SpeechModel:
    state = load_checkpoint(path)
    task = state.get("task_state") if isinstance(state, Mapping) else None
    about = task.get(STATE) if isinstance(task, Mapping) else None
    if not isinstance(about, Mapping) or about.get("target") not in TARGETS:
        raise InputError(f"{path}: neither a .nemo file nor a checkpoint of the task speech_recognition")
    symbols, tokenizer = vocabulary_of(about, str(path))
    return _build(about["config"], about["target"], symbols, tokenizer, state["model"], path)


def _build(
    config: Mapping[str, Any],
    target: str,
    symbols: Sequence[str],
    tokenizer: TextTokenizer | None,
    weights: Mapping[str, Tensor],
    path: Path,
) -> SpeechModel:
    bias = next(
        (value for name, value in weights.items() if name.startswith("decoder.") and name.endswith("bias")), None
    )
    outputs = len(symbols) + (target == TEXT)
    if not symbols or bias is not None and len(bias) != outputs:
        found = "none" if bias is None else len(bias)
        raise InputError(
            f"{path}: {found} outputs, {len(symbols)} symbols: the vocabulary does not belong to the weights"
        )
    network = ConvSpeech(config, target, len(symbols))
    check_weights(network, weights, str(path))
    network.load_state_dict(dict(weights))
    return SpeechModel(network.eval().requires_grad_(False), tuple(symbols), tokenizer, path)


def describe(target: str, symbols: Sequence[str], tokenizer: TextTokenizer | None) -> dict[str, Any]:
    """The vocabulary in plain values, as checkpoints keep it."""
    about: dict[str, Any] = {"target": target, "symbols": list(symbols)}
    if tokenizer is not None:
        about["normalisation"] = tokenizer.normalisation
        if isinstance(tokenizer, PieceTokenizer):
            about["tokenizer"] = base64.b64encode(tokenizer.model).decode()
    return about


def vocabulary_of(about: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], TextTokenizer | None]:
    """Symbols and tokenizer of what :func:`describe` gave; raises :class:`InputError` where they do not fit."""
    symbols = tuple(map(str, about.get("symbols") or ()))
    if about.get("target") != TEXT:
        return symbols, None
    normalisation = str(about.get("normalisation", "none"))
    if normalisation not in NORMALISATIONS:
        raise InputError(f"{where}: normalisation {normalisation!r} is unknown")
    tokenizer: TextTokenizer
    if about.get("tokenizer"):
        tokenizer = PieceTokenizer(base64.b64decode(str(about["tokenizer"])), normalisation, f"{where}: tokenizer")
    else:
        tokenizer = CharacterTokenizer(symbols, normalisation)
    if tokenizer.symbols != symbols:
        raise InputError(
            f"{where}: the tokenizer has {len(tokenizer.symbols)} symbols, the model {len(symbols)} others"
        )
    return symbols, tokenizer
