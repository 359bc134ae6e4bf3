"""A small CTC model as torchaudio publishes them: a bundle, and its file of weights with fairseq's own symbols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio

LABELS = ("|", "E", "T", "A", "O", "N", "I")
_SMALL: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(16, 10, 5), (16, 8, 8), (16, 8, 8)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 1,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 32,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.1,
    "aux_num_out": 1 + len(LABELS),
}


def publish(monkeypatch: pytest.MonkeyPatch, folder: Path, normalise: bool = False, seed: int = 1) -> Any:
    """The bundle ``SMALL_ASR``, known to torchaudio, with random weights where torch.hub looks for them."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    bundle = torchaudio.pipelines.Wav2Vec2ASRBundle(
        _path="small_asr.pth",
        _params=_SMALL,
        _sample_rate=16000,
        _normalize_waveform=normalise,
        _model_type="Wav2Vec2",
        _labels=LABELS,
    )
    monkeypatch.setattr(torchaudio.pipelines, "SMALL_ASR", bundle, raising=False)
    write_weights(folder / "hub" / "checkpoints" / "small_asr.pth", seed)
    return bundle


def write_weights(path: Path, seed: int) -> None:
    """Weights with three more outputs after the blank, as files have them that come from fairseq."""
    torch.manual_seed(seed)
    state = torchaudio.models.wav2vec2_model(**_SMALL).state_dict()
    state = {name: value + 0.3 * torch.randn_like(value) for name, value in state.items()}
    for name in ("aux.weight", "aux.bias"):
        wide = state[name].new_full((len(state[name]) + 3, *state[name].shape[1:]), 9.0)
        wide[[0, *range(4, len(wide))]] = state[name]
        state[name] = wide
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
