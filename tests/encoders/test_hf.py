"""Encoders of transformers, small ones with random weights, against transformers' own hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.encoders import build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.units import Codebook

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
CONVOLUTIONS = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
WAVE = {**SIZES, **CONVOLUTIONS, "vocab_size": 8}


def save(folder: Path, kind: str) -> Path:
    """A model of random weights, and what says how its inputs are made."""
    torch.manual_seed(1)
    normalize = kind in ("wav2vec2-large", "wavlm")
    extractor: Any = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=normalize)
    if kind == "wav2vec2-base":  # a group norm over time: no batch of different lengths is exact
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**WAVE))
    elif kind == "wav2vec2-large":
        stable = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**WAVE, **stable))
    elif kind == "wavlm":
        model = transformers.WavLMModel(transformers.WavLMConfig(**WAVE, feat_extract_norm="layer"))
    elif kind == "whisper":
        names = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
        decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 50}
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        config = transformers.WhisperConfig(**names, **decoder, **tokens, num_mel_bins=80)
        model, extractor = transformers.WhisperModel(config), transformers.WhisperFeatureExtractor()
    else:
        model = transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**SIZES))
        extractor = transformers.SeamlessM4TFeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def sounds() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randn(size, generator=draw) * 0.1 for size in (16000, 9000, 16000, 12345)]


@pytest.mark.commands
@pytest.mark.parametrize("kind", ["wav2vec2-base", "wav2vec2-large", "wavlm", "whisper", "wav2vec2-bert"])
def test_features_are_transformers_hidden_states_alone_and_together(kind: str, tmp_path: Path) -> None:
    folder = save(tmp_path, kind)
    encoder = build_encoder("hf", {"checkpoint": str(folder), "layer": 2})
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    run = model.encoder if kind == "whisper" else model
    waves = sounds()
    together = encoder.encode_batch(waves)
    for wave, features in zip(waves, together, strict=True):
        inputs = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            want = run(**inputs, output_hidden_states=True).hidden_states[2][0][: encoder.frames(len(wave))]
        assert features.shape == want.shape == (encoder.frames(len(wave)), 32)
        torch.testing.assert_close(features, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(encoder.encode(wave, 16000), features, rtol=1e-4, atol=1e-4)
    assert (encoder.sample_rate, encoder.frame_rate, encoder.dim) == (16000, 50.0, 32)


def test_codebooks_remember_the_encoder_and_other_weights_are_told_apart(tmp_path: Path) -> None:
    encoder = build_encoder("hf", {"checkpoint": str(save(tmp_path / "a", "wavlm")), "layer": 1})
    codebook = Codebook(torch.randn(5, 32)).for_encoder(encoder)
    codebook.save(tmp_path / "codebook.safetensors")
    again = Codebook.load(tmp_path / "codebook.safetensors").build_encoder()
    wave = sounds()[0]
    assert torch.equal(again.encode(wave, 16000), encoder.encode(wave, 16000))
    assert str(tmp_path) not in str(encoder.identity)
    with pytest.raises(InputError, match="weights"):
        codebook.build_encoder({"checkpoint": str(save(tmp_path / "b", "wav2vec2-large"))})


def test_what_does_not_fit(tmp_path: Path) -> None:
    folder = str(save(tmp_path / "w", "whisper"))
    for options, message in (
        ({"checkpoint": folder}, "3 blocks and no layer is named"),
        ({"checkpoint": folder, "layer": 4}, "3 blocks and layer 4"),
        ({"checkpoint": folder, "layer": 1, "chunk_seconds": 25.0}, "whisper takes 30 s"),
        ({"checkpoint": str(tmp_path), "layer": 1}, "no audio model of transformers"),
        ({"layer": 1}, "checkpoint is needed"),
    ):
        with pytest.raises(InputError, match=message):
            build_encoder("hf", options)
