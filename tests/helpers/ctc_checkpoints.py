"""Small CTC models of fairseq with random weights, saved as fairseq-train saves them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig
from fairseq.models.hubert.hubert_asr import HubertCtc, HubertCtcConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from omegaconf import OmegaConf

from tests.helpers.speech_checkpoints import BASE

LETTERS = ["|", "E", "T", "A", "O", "N", "I"]


def letters(folder: Path, symbols: list[str] = LETTERS) -> Path:
    path = folder / "dict.ltr.txt"
    path.write_text("".join(f"{symbol} {9 - number}\n" for number, symbol in enumerate(symbols)))
    return path


def finetuned(kind: str, dictionary: Dictionary, inner: dict[str, Any], normalize: bool) -> tuple[Any, dict[str, Any]]:
    """fairseq's own model with random weights, and its options as fairseq-train saves them."""
    torch.manual_seed(3)
    hubert = kind == "hubert_ctc"
    config = (
        HubertConfig() if hubert else Wav2Vec2Config(quantize_targets=True, latent_vars=8, required_seq_len_multiple=1)
    )
    for name, value in inner.items():
        setattr(config, name, value)
    options = {
        **OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True),
        "_name": "hubert" if hubert else "wav2vec2",
    }
    task = {"_name": "hubert_pretraining" if hubert else "audio_pretraining", "data": ".", "normalize": normalize}
    if hubert:
        task |= {"labels": ["km"], "label_rate": 50.0, "sample_rate": 16000}
    w2v_args = {"model": options, "task": task, "criterion": None, "lr_scheduler": None}
    outer = HubertCtcConfig() if hubert else Wav2Vec2CtcConfig()
    outer.normalize, outer.data, outer.w2v_args = normalize, ".", OmegaConf.create(w2v_args)
    stub = SimpleNamespace(target_dictionary=dictionary, state_dict=lambda: {"dictionaries": [dictionary]})
    model = (HubertCtc if hubert else Wav2VecCtc).build_model(outer, stub).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model, w2v_args


def save(path: Path, kind: str, model: Any, w2v_args: dict[str, Any], normalize: bool, form: str, **more: Any) -> Path:
    """As fairseq-train saves it: options as ``cfg``, plain or OmegaConf's, or, until 2020, as ``args``."""
    task = {"_name": "audio_finetuning", "data": "/gone", "labels": "ltr", "sample_rate": 16000, "normalize": normalize}
    cfg: Any = {
        "_name": None,
        "model": {"_name": kind, "w2v_path": "/gone.pt", "w2v_args": w2v_args, **more},
        "task": task,
    }
    args = None
    if form == "omegaconf":
        cfg = OmegaConf.create(cfg)
        cfg.model.normalize = "${task.normalize}"
    if form == "args":
        inner = Namespace(arch="wav2vec2", **{**w2v_args["task"], **w2v_args["model"]})
        outer = {**task, "task": task.pop("_name"), **more}
        outer.pop("_name")
        cfg, args = None, Namespace(arch=kind, w2v_path="/gone.pt", w2v_args=inner, **outer)
    weights = model.state_dict()
    torch.save({"args": args, "cfg": cfg, "model": weights, "extra_state": {"epoch": 1}, "task_state": {}}, path)
    return path


def small_recogniser(folder: Path, **options: Any) -> str:
    """``--asr`` of a small model in a folder: it says something of any sound, within milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = Dictionary.load(str(letters(folder)))
    inner = {name: value for name, value in BASE.items() if name not in ("label_rate", "untie_final_proj")}
    model, w2v_args = finetuned("wav2vec_ctc", dictionary, inner | options, False)
    return f"fairseq:{save(folder / 'model.pt', 'wav2vec_ctc', model, w2v_args, False, 'cfg')}"
