"""A tiny SALM: our own decoder with a sentencepiece tokenizer, a causal Conformer; conversations of synthetic sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.modules.backbone import load_backbone, save_backbone

TAG = "<|audioplaceholder|>"
WORDS = "zero one two three four five six seven eight nine"
_CONFORMER = {
    "d_model": 16, "n_layers": 1, "n_heads": 2, "subsampling_conv_channels": 4, "conv_kernel_size": 5, "dropout": 0.0,
    "dropout_pre_encoder": 0.0, "conv_norm_type": "batch_norm", "xscaling": False,
}  # fmt: skip
PERCEPTION = {
    "preprocessor": {"features": 16, "window_size": 0.025, "normalize": "per_feature", "pad_to": 0, "dither": 0.0},
    "encoder": {**_CONFORMER, "feat_in": 16, "subsampling_factor": 8},
    "modality_adapter": {**_CONFORMER, "feat_in": 16, "subsampling_factor": 1},
    "output_dim": 16,
}
FREEZE = [r"^llm\..+$", r"^embed_tokens\..+$", r"^perception\.preprocessor\..+$"]


def write_llm(folder: Path) -> Path:
    """A random language model with its tokenizer."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"[INST] repeat what was said: [/INST] {WORDS}", *WORDS.split()] * 4
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=60, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    save_backbone(load_backbone({"model_type": "rotary", "vocab_size": 64, "num_key_value_heads": 2, **shape}), folder)
    return folder


def write_config(folder: Path, **changes: Any) -> Path:
    """The model's configuration as YAML, with a language model beside it."""
    write_llm(folder / "llm")
    path = folder / "model.json"
    config = {"pretrained_llm": "llm", "perception": PERCEPTION, "freeze_params": FREEZE, **changes}
    path.write_text(json.dumps({"model": config}))
    return path


def write_conversations(folder: Path, split: str, count: int, seed: int = 1) -> Path:
    """A manifest of tones, one pitch for each word."""
    random = np.random.default_rng(seed)
    words, rows = WORDS.split(), []
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        digits = random.integers(0, 10, random.integers(1, 4))
        time = np.arange(4800) / 16000
        wave = np.concatenate([np.sin(2 * np.pi * (300 + 200 * digit) * time) for digit in digits]) * 0.3
        path = folder / "audio" / f"{split}{number}.wav"
        write_audio(path, torch.tensor(wave, dtype=torch.float32)[None], 16000)
        text = " ".join(words[digit] for digit in digits)
        rows.append({"audio_filepath": f"audio/{path.name}", "duration": len(wave) / 16000, "text": text})
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
