"""Tiny duplex models: our own decoder with a sentencepiece tokenizer, a causal Conformer, units of four a frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.units.codebook import Codebook

WORDS = "one two three yes no please wait go stop here there now"
ENCODER = {
    "_target_": "ConformerEncoder", "feat_in": 16, "d_model": 16, "n_layers": 1, "n_heads": 2, "subsampling_factor": 8,
    "subsampling_conv_channels": 4, "causal_downsampling": True, "att_context_style": "chunked_limited",
    "att_context_size": [10, 0], "conv_kernel_size": 5, "conv_context_size": "causal", "conv_norm_type": "layer_norm",
    "xscaling": False, "dropout": 0.0, "dropout_pre_encoder": 0.0,
}  # fmt: skip
SPEECH_DECODER = {
    "d_model": 8, "d_ffn": 16, "n_layers": 1, "sa_n_heads": 2, "kernel_size": 3, "max_length_causal_mask": 64,
    "use_learnable_pos_emb": True, "cfg_unconditional_prob": 0.1,
}  # fmt: skip


def write_config(folder: Path, **changes: Any) -> Path:
    """``model.json`` of a tiny model, with its tokenizer and codebook."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir(parents=True, exist_ok=True)
    SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, *WORDS.split()] * 4), model_prefix=str(folder / "tokenizer"), vocab_size=40,
        hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2,
    )  # fmt: skip
    torch.manual_seed(1)
    centroids = torch.randn(9, 40) - 5
    Codebook(centroids, "logmel", LogMelEncoder().options, 50.0).save(folder / "codebook.safetensors")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {
        "pretrained_llm": {
            "model_type": "rotary", "vocab_size": 48, "num_key_value_heads": 2, "initializer_range": 0.3, **shape,
        },
        "pretrained_weights": False,
        "tokenizer": "tokenizer.model",
        "pretrained_audio_codec": "units:codebook.safetensors",
        "perception": {
            "preprocessor": {"features": 16, "window_size": 0.025, "normalize": "NA", "pad_to": 0, "dither": 0.0},
            "encoder": ENCODER,
            "modality_adapter": {"_target_": "IdentityConnector", "d_model": 16},
            "output_dim": 16,
        },
        **changes,
    }  # fmt: skip
    path = folder / "model.json"
    path.write_text(json.dumps(config))
    return path


def write_conversations(folder: Path, split: str, count: int, codes: bool = True) -> Path:
    """Conversations of 1.6 s, of a tone that is answered by a word, with units of the answer or its sound."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        time = torch.arange(25600) / 16000
        kind = number % 3
        wave = torch.zeros(2, 25600)
        wave[0, 3200:9600] = torch.sin(2 * torch.pi * (300 + 400 * kind) * time[:6400]) * 0.5
        wave[1, 12800:20480] = torch.sin(2 * torch.pi * (500 + 300 * kind) * time[:7680]) * 0.5
        path = folder / "audio" / f"{split}{number}.wav"
        write_audio(path, wave, 16000)
        word = WORDS.split()[kind]
        row: dict[str, Any] = {
            "id": f"{split}{number}",
            "audio_filepath": f"audio/{path.name}",
            "duration": 1.6,
            "supervisions": [
                {"start": 0.2, "duration": 0.4, "text": "tone", "speaker": "user"},
                {"start": 0.8, "duration": 0.48, "text": word, "speaker": "agent"},
            ],
        }
        if codes:
            row |= {"codec": " ".join(["0"] * 40 + [str(1 + kind)] * 24 + ["0"] * 16), "codec_rate": 50}
        rows.append(row)
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
