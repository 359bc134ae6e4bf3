"""Small codecs with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def tiny_encodec(causal: bool = True, **options: Any) -> Any:
    """An ``EncodecModel`` of 3 codebooks of 16, 16 samples per frame, as wide as what it quantizes."""
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(
        num_filters=4, hidden_size=16, codebook_size=16, codebook_dim=16, upsampling_ratios=[4, 2, 2],
        target_bandwidths=[18.0], use_causal_conv=causal, **options,
    )  # fmt: skip
    model = EncodecModel(config).eval()
    with torch.no_grad():
        frames = model.encoder(torch.randn(1, config.audio_channels, 16 * 16) * 0.2)[0].T
    for number, layer in enumerate(model.quantizer.layers):  # the first is near what the encoder gives
        nn.init.normal_(layer.codebook.embed, std=0.3 * float(frames.std(0).mean()))
        layer.codebook.embed += 0 if number else frames
    return model


def tiny_mimi() -> Any:
    """A ``MimiModel`` of 4 codebooks of 16, 32 samples per frame, whose attention sees 10 steps."""
    from transformers import MimiConfig, MimiModel

    config = MimiConfig(
        num_filters=4, hidden_size=32, codebook_size=16, codebook_dim=16, vector_quantization_hidden_dimension=16,
        upsampling_ratios=[4, 2, 2], num_quantizers=4, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, intermediate_size=32, frame_rate=750.0, upsample_groups=32,
        sliding_window=10,
    )  # fmt: skip
    model = MimiModel(config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):
            nn.init.normal_(buffer, std=0.1)
    return model


def nemo_config() -> dict[str, Any]:
    """``model_config.yaml`` of an audio codec of 2 codebooks of 20, 12 samples per frame."""
    return {
        "target": "nemo.collections.tts.models.audio_codec.AudioCodecModel",
        "sample_rate": 1200,
        "samples_per_frame": 12,
        "audio_encoder": {
            "_target_": "x.HiFiGANEncoder", "down_sample_rates": [4, 3], "encoded_dim": 4, "base_channels": 4,
            "activation": "lrelu", "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [1],
        },
        "audio_decoder": {
            "_target_": "x.HiFiGANDecoder", "up_sample_rates": [3, 4], "input_dim": 4, "base_channels": 16,
            "activation": "lrelu", "output_activation": "tanh", "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [1, 3],
        },
        "vector_quantizer": {
            "_target_": "x.GroupFiniteScalarQuantizer", "num_groups": 2, "num_levels_per_group": [4, 5],
        },
    }  # fmt: skip
