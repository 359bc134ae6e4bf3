"""WavLM under the published names against its formulas, on real speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import pad
from torchaudio.models import wavlm_model

from speechdlm_ext.encoders import build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from tests.helpers.speech_checkpoints import WAVLM_CFG, wavlm_features, wavlm_weights


@pytest.fixture(scope="module")
def wave(data: Path) -> torch.Tensor:
    """Four seconds of speech at 16 kHz (64123,)."""
    return read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)[0][0, 8000:72123]


@pytest.fixture(scope="module")
def weights(data: Path) -> dict[str, torch.Tensor]:
    return wavlm_weights(data / "keys" / "wavlm_large_model.txt", 3)


@pytest.fixture
def make(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Any:
    """Builds an encoder from a file with changed options, weights that are replaced, and those skipped."""

    def build(
        cfg: dict[str, Any] | None = None,
        replaced: dict[str, torch.Tensor] | None = None,
        without: tuple[str, ...] = (),
        **options: Any,
    ) -> Any:
        model = {name: weight for name, weight in {**weights, **(replaced or {})}.items() if name not in without}
        torch.save({"cfg": {**WAVLM_CFG, **(cfg or {})}, "model": model}, tmp_path / "wavlm.pt")
        return build_encoder("wavlm", {"checkpoint": str(tmp_path / "wavlm.pt"), "layer": 2, **options})

    return build


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_features_are_those_of_the_formulas(
    make: Any, weights: dict[str, torch.Tensor], wave: torch.Tensor, layer: int
) -> None:
    encoder = make(layer=layer)
    features = encoder.encode(wave, 16000)
    assert features.shape == (len(wave) // 320, 32) and (encoder.frame_rate, encoder.dim) == (50.0, 32)
    torch.testing.assert_close(features, wavlm_features(weights, pad(wave, (40, 40)), layer), rtol=1e-5, atol=5e-5)
    assert len(encoder.model.encoder.transformer.layers) == layer
    assert not any(f"layers.{layer}." in name for name in encoder.model.encoder.state_dict())


# Prefixes of names in torchaudio's model, and in Microsoft's files.
TORCHAUDIO = {
    "encoder.feature_projection.layer_norm": "layer_norm",
    "encoder.feature_projection.projection": "post_extract_proj",
    "encoder.transformer.pos_conv_embed.conv": "encoder.pos_conv.0",
    "encoder.transformer": "encoder",
    ".attention.attention": ".self_attn",
    ".attention.gru_rel_pos_const": ".self_attn.grep_a",
    ".attention.gru_rel_pos_linear": ".self_attn.grep_linear",
    ".attention.rel_attn_embed": ".self_attn.relative_attention_bias",
    ".feed_forward.intermediate_dense": ".fc1",
    ".feed_forward.output_dense": ".fc2",
}


def of_torchaudio(seed: int, large: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    """torchaudio's own model with random weights, and these as Microsoft names them."""
    torch.manual_seed(seed)
    mode = "layer_norm" if large else "group_norm"
    layers = [(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24, 2, 2)] * 2
    model = wavlm_model(mode, layers, False, 32, 0, 16, 16, 3, 16, 320, 800, 0, 48, 0, 0, large, 0, None).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    weights = {}
    for name, weight in model.state_dict().items():
        parts = {name: weight}
        if "in_proj_" in name:
            parts = dict(zip((name.replace("in_proj_", f"{k}_proj.") for k in "qkv"), weight.chunk(3), strict=True))
        for part, value in parts.items():
            part = part.replace(".conv.", ".0.") if part.startswith("feature_extractor") else part
            block_norm = "self_attn_layer_norm" if ".layers." in part else "2.1" if large else "2"
            if part.startswith("feature_extractor") or ".layers." in part:
                part = part.replace(".layer_norm.", f".{block_norm}.")
            for old, new in TORCHAUDIO.items():
                part = part.replace(old, new)
            weights[part] = value.clone()
    return model, weights


@pytest.mark.parametrize("large", [True, False])
def test_features_are_torchaudios(make: Any, wave: torch.Tensor, weights: dict[str, torch.Tensor], large: bool) -> None:
    model, own = of_torchaudio(5, large)
    cfg = {} if large else {"extractor_mode": "default", "layer_norm_first": False}
    encoder = make(cfg=cfg, replaced=own, without=tuple(set(weights) - set(own)))
    waves = [wave[:31999], wave, wave[5000:5320]]
    for sound, features in zip(waves, encoder.encode_batch(waves), strict=True):
        with torch.no_grad():
            want = model.extract_features(pad(sound, (40, 40))[None], num_layers=2)[0][1][0]
        torch.testing.assert_close(features, want, rtol=0, atol=1e-4)


def test_other_paddings_and_norms_of_the_wave(make: Any, weights: dict[str, torch.Tensor], wave: torch.Tensor) -> None:
    short = wave[:20399]
    features = make(padding=0).encode(short, 16000)
    assert features.shape == ((20399 - 400) // 320 + 1, 32)
    torch.testing.assert_close(features, wavlm_features(weights, short, 2), rtol=1e-5, atol=5e-5)
    normed = (short - short.mean()) / (short.var(unbiased=False) + 1e-5).sqrt()
    features = make(normalize=True).encode(0.3 * short + 0.1, 16000)
    torch.testing.assert_close(features, wavlm_features(weights, pad(normed, (40, 40)), 2), rtol=1e-3, atol=5e-3)


def test_a_batch_gives_what_single_files_give(make: Any, weights: dict[str, torch.Tensor], wave: torch.Tensor) -> None:
    encoder = make()
    waves = [wave[:31999], wave[5000:5320], wave, wave[100:20777]]
    for sound, features in zip(waves, encoder.encode_batch(waves), strict=True):
        assert len(features) == len(sound) // 320 == encoder.frames(len(sound))
        torch.testing.assert_close(features, encoder.encode(sound, 16000), rtol=0, atol=1e-4)
        want = wavlm_features(weights, pad(sound, (40, 40)), 2)
        torch.testing.assert_close(features, want, rtol=1e-5, atol=1e-4)


@pytest.mark.commands
def test_the_bias_of_far_frames_and_of_fewer_frames_after_many(
    make: Any, weights: dict[str, torch.Tensor], wave: torch.Tensor
) -> None:
    """Sounds of several lengths in any order: what was kept of longer or shorter ones makes no difference."""
    encoder, long = make(layer=1), wave.repeat(9)[: 320 * 1700]
    for sound in (wave[:9000], long, wave[5000:12000]):
        want = wavlm_features(weights, pad(sound, (40, 40)), 1)
        torch.testing.assert_close(encoder.encode(sound, 16000), want, rtol=1e-5, atol=2e-4)


def test_older_names_of_the_weight_norm(make: Any, weights: dict[str, torch.Tensor], wave: torch.Tensor) -> None:
    encoder = make()
    newer = [name for name in weights if "parametrizations" in name]
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): weights[name]
        for name in newer
    }
    other = make(replaced=older, without=tuple(newer))
    assert other.identity == encoder.identity and len(newer) == 2
    assert torch.equal(other.encode(wave, 16000), encoder.encode(wave, 16000))


def test_identity(make: Any, tmp_path: Path) -> None:
    identity = make().identity
    assert (identity["layer"], identity["normalize"], identity["padding"]) == (2, False, 40)
    assert str(tmp_path) not in str(identity)
    assert make(cfg={"max_distance": 700}).identity != identity  # no weight shows it
    assert make(padding=0).identity != identity
    assert make(replaced={"mask_emb": torch.zeros(32)}).identity == identity


def test_bfloat16(make: Any, wave: torch.Tensor) -> None:
    want = make().encode(wave, 16000)
    features = make().to("cpu", torch.bfloat16).encode_batch([wave, wave[:9000]])[0]
    assert features.dtype == torch.float32 and not torch.equal(features, want)
    assert float(torch.cosine_similarity(features, want, dim=1).mean()) > 0.99


BLOCK = "encoder.layers.1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"without": (f"{BLOCK}.self_attn.grep_a",)}, f"no weights {BLOCK}.self_attn.grep_a:"),
        ({"without": (f"{BLOCK}.self_attn.grep_linear.bias",)}, f"no weights {BLOCK}.self_attn.grep_linear.bias:"),
        ({"without": (f"{BLOCK}.self_attn.k_proj.bias",)}, f"no weights {BLOCK}.self_attn.k_proj.bias:"),
        ({"without": (f"{BLOCK}.self_attn.q_proj.bias",)}, f"{BLOCK}.self_attn.q_proj.bias"),
        (
            {"without": tuple(f"{BLOCK}.self_attn.{part}_proj.weight" for part in "qkv")},
            f"no weights {BLOCK}.self_attn.q_proj.weight, k_proj.weight and v_proj.weight:",
        ),
        (
            {"without": ("feature_extractor.conv_layers.3.2.1.bias",)},
            "no weights feature_extractor.conv_layers.3.2.1.bias:",
        ),
        (
            {"without": ("encoder.layers.0.self_attn.relative_attention_bias.weight",)},
            "no weights encoder.layers.0.self_attn.relative_attention_bias.weight:",
        ),
        ({"without": ("post_extract_proj.weight",)}, "no weights post_extract_proj.weight:"),
        ({"replaced": {f"{BLOCK}.extra": torch.ones(1)}}, f"has weights .*{BLOCK}.extra"),
        ({"replaced": {f"{BLOCK}.fc1.bias": torch.ones(2)}}, rf"{BLOCK}.fc1.bias is 2, 48 is"),
        ({"cfg": {"num_buckets": 32}}, r"relative_attention_bias.weight is 320 × 16, 32 × 16"),
        ({"cfg": {"gru_rel_pos": False}}, "gated relative positions"),
        ({"layer": 4}, "has 3 blocks and layer 4 is expected"),
        ({"padding": 400}, "padding 400"),
        ({"chunk_seconds": 0}, "chunk_seconds 0"),
        ({"context_seconds": -1}, "context_seconds -1"),
        ({"checkpoint": "wavlm-larg"}, "wavlm-larg: no such file.*wavlm-large"),
    ],
)
def test_what_does_not_fit(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**arguments)


def test_sound_that_cannot_be_encoded(make: Any, wave: torch.Tensor) -> None:
    encoder = make()
    with pytest.raises(InputError, match=r"sound of 160 samples is shorter than one frame: 320 .*20 ms"):
        encoder.encode(wave[:160], 16000)
    with pytest.raises(InputError, match="not a finite number"):
        encoder.encode(wave * float("nan"), 16000)
    silence = encoder.encode(torch.zeros(4000), 16000)
    assert silence.shape == (12, 32) and bool(torch.isfinite(silence).all())
