"""Files of convolutional speech models: NeMo's ``.nemo``, checkpoints of fairseq-train, published names."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.nemo import NemoFile, read_nemo
from speechdlm_ext.io.published import Published, locate
from speechdlm_ext.modules.conv_blocks import ConvEncoder
from speechdlm_ext.modules.conv_speech import FRAMES, LABEL, TARGETS, TEXT, ConvSpeech
from speechdlm_ext.modules.speech_features import features_of
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
                "stt_zh_citrinet_512",
                "vad_telephony_marblenet", "vad_marblenet", "commandrecognition_en_matchboxnet3x1x64_v1",
                "commandrecognition_en_matchboxnet3x2x64_v1", "commandrecognition_en_matchboxnet3x1x64_v2",
                "commandrecognition_en_matchboxnet3x2x64_v2",
            ),
            "1.0.0": (
                "stt_es_citrinet_512", "stt_en_citrinet_256_gamma_0_25", "stt_en_citrinet_512_gamma_0_25",
                "stt_en_citrinet_1024_gamma_0_25", "stt_zh_citrinet_1024_gamma_0_25",
            ),
            "1.5": ("stt_fr_citrinet_1024_gamma_0_25",),
            "1.5.0": ("stt_de_citrinet_1024",),
            "1.8.0": ("stt_es_citrinet_1024_gamma_0_25",),
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


class LoadedNetwork(NamedTuple):
    """A network and what its outputs mean.

    Attributes:
        network: in evaluation mode, on the CPU.
        vocabulary: plain values: ``target``; ``symbols`` in order, the blank not among them (``|`` for the space); of
            recognisers ``normalisation``, and ``tokenizer``, a sentencepiece model in base64.
        path: the file that it was read from.
    """

    network: ConvSpeech
    vocabulary: dict[str, Any]
    path: Path

    def expect(self, *targets: str) -> LoadedNetwork:
        """This network; raises :class:`InputError` where it predicts something else."""
        if self.network.target not in targets:
            raise InputError(f"{self.path}: a model of {self.network.target}, {' or '.join(targets)} is expected")
        return self


def load_network(path_or_name: str | os.PathLike[str]) -> LoadedNetwork:
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
    loaded = of_nemo(read_nemo(path)) if path.suffix == ".nemo" else _of_fairseq(path)
    check_finite(loaded.network, str(path))
    return loaded


def of_nemo(file: NemoFile) -> LoadedNetwork:
    """The network of a file of one of :data:`CLASSES`; raises :class:`InputError` for others, or a damaged one."""
    file.expect(*CLASSES)
    try:
        return _of_nemo(file)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{file.path}: the configuration is not one of {file.kind} ({one_line(error)[:200]})"
        ) from None


def _of_nemo(file: NemoFile) -> LoadedNetwork:
    target, decoder = CLASSES[file.kind], file.config.get("decoder") or {}
    decoder = decoder.get("params") or decoder  # before 1.0 there was a level more
    if (pooling := decoder.get("pooling_type", "avg")) != "avg":
        raise InputError(f"{file.path}: decoder with pooling_type {pooling} is not supported, avg is expected")
    labels = decoder.get("vocabulary") if target == TEXT else file.config.get("labels")
    symbols = ["|" if label == " " and target == TEXT else str(label) for label in labels or ()]
    vocabulary: dict[str, Any] = {"target": target, "symbols": symbols}
    if target == TEXT:
        vocabulary["normalisation"] = "none"
    if file.kind.endswith("BPE"):
        section = file.config.get("tokenizer") or {}
        if section.get("type", "bpe") != "bpe":
            raise InputError(f"{file.path}: a tokenizer of type {section['type']}; bpe (sentencepiece) is expected")
        vocabulary["tokenizer"] = base64.b64encode(file.file(section.get("model_path"))).decode()
    weights = {name: value for name, value in file.weights.items() if name != "loss.weight"}
    return _build({**file.config, "reflect": file.old_front_end}, vocabulary, weights, file.path)


def _of_fairseq(path: Path) -> LoadedNetwork:
    state = load_checkpoint(path)
    task = state.get("task_state") if isinstance(state, Mapping) else None
    about = task.get(STATE) if isinstance(task, Mapping) else None
    if not isinstance(about, Mapping) or about.get("target") not in TARGETS or not about.get("config"):
        raise InputError(f"{path}: neither a .nemo file nor a checkpoint of the task speech_recognition")
    vocabulary = {name: value for name, value in about.items() if name != "config"}
    return _build(about["config"], vocabulary, state["model"], path)


def _build(
    config: Mapping[str, Any], vocabulary: dict[str, Any], weights: Mapping[str, Any], path: Path
) -> LoadedNetwork:
    target, symbols = vocabulary["target"], vocabulary["symbols"]
    outputs = {len(value) for name, value in weights.items() if name.startswith("decoder.") and value.dim()}
    if not symbols or outputs != {len(symbols) + (target == TEXT)}:
        found = ", ".join(map(str, outputs)) or "no"
        raise InputError(f"{path}: {found} outputs, {len(symbols)} symbols: the vocabulary is of another model")
    try:
        _check_encoder(config, weights)
        network = ConvSpeech(config, target, len(symbols))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    check_weights(network, weights, str(path))
    network.load_state_dict(dict(weights))
    return LoadedNetwork(network.eval().requires_grad_(False), vocabulary, path)


def _check_encoder(config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` where weights do not fit, before there is memory for them: a file may name any size."""
    if isinstance(config.get("encoder"), Mapping) and isinstance(config.get("preprocessor"), Mapping):
        inputs = features_of(config["preprocessor"]).dim
        with torch.device("meta"):
            encoder = nn.ModuleDict({"encoder": ConvEncoder({"feat_in": inputs, **config["encoder"]})})
        own = {name: value for name, value in weights.items() if name.startswith("encoder.")}
        check_weights(encoder, own, "the encoder")
