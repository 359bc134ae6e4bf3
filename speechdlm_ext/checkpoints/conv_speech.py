"""Convolutional speech models as NeMo's ``.nemo`` files and as checkpoints of fairseq-train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from speechdlm_ext.asr.speech_model import SpeechModel, describe
from speechdlm_ext.asr.text_tokenizer import PieceTokenizer, word_pieces
from speechdlm_ext.checkpoints.fairseq_files import checkpoint_state
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.nemo import PREFIX, member_name, write_nemo
from speechdlm_ext.modules.conv_speech import FRAMES, LABEL, TEXT
from speechdlm_ext.modules.conv_speech_files import STATE

_MODELS, _MODULES = "nemo.collections.asr.models", "nemo.collections.asr.modules"
# Of the two front ends (see LogMelFeatures): the last version before, and the one whose files were compared.
_VERSIONS = {True: "2.4.1", False: "3.0.0"}
# Classes of sections that name none; NeMo refuses these.
_SECTIONS = {
    "preprocessor": "AudioToMelSpectrogramPreprocessor", "spec_augment": "SpectrogramAugmentation",
    "encoder": "ConvASREncoder",
}  # fmt: skip


def write_speech_nemo(model: SpeechModel, path: Path, overwrite: bool = False) -> None:
    """Write a ``.nemo`` file that NeMo reads.

    Raises:
        InputError: there is such a file already, and not ``overwrite``.
    """
    _absent(path, overwrite)
    network = model.network
    labels = [" " if symbol == "|" else symbol for symbol in model.symbols]
    weights, files = dict(network.state_dict()), {}
    config: dict[str, Any] = {"sample_rate": network.sample_rate}
    if network.target != TEXT or not isinstance(model.tokenizer, PieceTokenizer):
        config["labels"] = labels
    for name, module in _SECTIONS.items():
        if name in network.config:
            config[name] = {"_target_": f"{_MODULES}.{module}", **network.config[name]}
    dim, count = network.encoder.dim, len(labels)
    if network.target == TEXT:
        kind = "ctc_models.EncDecCTCModel"
        vocabulary = list(model.symbols) if isinstance(model.tokenizer, PieceTokenizer) else labels
        config["decoder"] = {
            "_target_": f"{_MODULES}.ConvASRDecoder", "feat_in": dim, "num_classes": count, "vocabulary": vocabulary,
        }  # fmt: skip
        if isinstance(model.tokenizer, PieceTokenizer):
            kind = "ctc_bpe_models.EncDecCTCModelBPE"
            tokenizer: dict[str, str] = {"dir": "tokenizer", "type": "bpe"}
            for key, name, data in (
                ("model_path", "tokenizer.model", model.tokenizer.model),
                ("vocab_path", "vocab.txt", word_pieces(model.symbols).encode()),
            ):
                member = member_name(name, data)
                tokenizer[key], files[member] = PREFIX + member, data
            config["tokenizer"] = tokenizer
            config["validation_ds"] = {  # without which NeMo's transcribe() fails
                "manifest_filepath": None, "sample_rate": network.sample_rate, "batch_size": 4, "shuffle": False,
                "use_start_end_token": False,
            }  # fmt: skip
    elif network.target == LABEL:
        kind = "classification_models.EncDecClassificationModel"
        config["decoder"] = {
            "_target_": f"{_MODULES}.ConvASRDecoderClassification", "feat_in": dim, "num_classes": count,
            "return_logits": True, "pooling_type": "avg",
        }  # fmt: skip
    else:
        kind = "classification_models.EncDecFrameClassificationModel"
        config["decoder"] = {
            "_target_": "nemo.collections.common.parts.MultiLayerPerceptron", "hidden_size": dim, "num_classes": count,
            "num_layers": 1, "activation": "relu", "log_softmax": False,
        }  # fmt: skip
        weights["loss.weight"] = torch.ones(count)
    config.update(target=f"{_MODELS}.{kind}", nemo_version=_VERSIONS[network.config["reflect"]])
    write_nemo(path, config, weights, files)


def write_speech_checkpoint(model: SpeechModel, path: Path, overwrite: bool = False) -> None:
    """Write a checkpoint of the task ``speech_recognition`` that fairseq's commands read.

    Raises:
        InputError: there is such a file already, and not ``overwrite``.
    """
    import json

    _absent(path, overwrite)
    network = model.network
    family = {TEXT: "quartznet", LABEL: "matchboxnet", FRAMES: "marblenet"}[network.target]
    options = {"_name": family, "configuration": json.dumps(network.config), "width": 1.0, "dropout": None}
    task: dict[str, Any] = {"_name": "speech_recognition", "target": network.target}
    # fairseq-validate changes only the options of a checkpoint that it has.
    of_commands = dict.fromkeys(("data", "vocabulary", "labels", "channel", "tensorboard_logdir"))
    task |= {"sample_rate": network.sample_rate, "unknown_characters": "refuse", "seed": 1, **of_commands}
    criterion = {"_name": "speech_ctc" if network.target == TEXT else "speech_labels"}
    about = {STATE: {**describe(network.target, model.symbols, model.tokenizer), "config": network.config}}
    cfg = OmegaConf.create({"task": task, "model": options, "criterion": criterion})
    loss = "CTCCriterion" if network.target == TEXT else "LabelCriterion"
    state = checkpoint_state(cfg, network.state_dict(), about, loss, "FairseqNovoGrad")
    with atomic_write(path, "wb") as file:
        torch.save(state, file)


def _absent(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: pass --overwrite, or choose another place")
