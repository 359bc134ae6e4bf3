"""Perception: outputs of the public code, rows alone and in batches, streams; frozen encoders."""

import json

import numpy as np
import pytest
import torch

from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.perception import Perception
from speechdlm_ext.modules.weights import read_safetensors
from tests.helpers.references import reference_path

CAUSAL = {
    "feat_in": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "subsampling_factor": 4, "subsampling_conv_channels": 8,
    "causal_downsampling": True, "att_context_size": [6, 0], "conv_context_size": "causal", "conv_kernel_size": 5,
    "conv_norm_type": "layer_norm", "xscaling": False,
}  # fmt: skip
ADAPTER = CAUSAL | {
    "subsampling_factor": 1, "att_context_size": [4, 1], "att_context_style": "chunked_limited", "n_layers": 1,
}  # fmt: skip
FEATURES = {"features": 16, "normalize": "NA", "pad_to": 0, "window_size": 0.025, "n_fft": 512}
CONFIG = {"preprocessor": FEATURES, "encoder": CAUSAL, "modality_adapter": ADAPTER, "output_dim": 12}


def perception(**changes):
    torch.manual_seed(1)
    return Perception(CONFIG | changes).eval()


@pytest.mark.parametrize("name", ["salm", "duplex_s2s", "duplex_s2s_speech_decoder"])
@torch.no_grad()
def test_embeddings_are_those_of_the_public_code(name):
    folder = reference_path(f"nemo/speechlm/{name}")
    config = json.loads((folder / "model" / "config.json").read_text())["perception"]
    weights = read_safetensors(folder / "model" / "model.safetensors")
    found = Perception(config).eval()
    found.load_state_dict({key[11:]: value for key, value in weights.items() if key.startswith("perception.")})
    assert found.token_equivalent_duration == pytest.approx(0.08)
    with np.load(folder / "io.npz") as file:
        audio = "audios" if name == "salm" else "source_audio"
        wave, lengths = torch.tensor(file[audio]).float() / 32768, torch.tensor(file[audio.rstrip("s") + "_lens"])
        expected, counts = torch.tensor(file["perception_embeddings"]), file["perception_embeddings_len"]
    embeddings, found_counts = found(wave, lengths)
    assert found_counts.tolist() == counts.tolist()
    for row, count in enumerate(counts):
        torch.testing.assert_close(embeddings[row, :count], expected[row, :count], atol=1e-5, rtol=0)
        alone, _ = found(wave[row : row + 1, : lengths[row]], lengths[row : row + 1])
        torch.testing.assert_close(alone[0, :count], expected[row, :count], atol=1e-5, rtol=0)


@pytest.mark.parametrize("context", [[6, 0], [-1, 0], [-1, -1]])
@torch.no_grad()
def test_a_row_alone_is_the_row_in_a_batch(context):
    found = perception(encoder=CAUSAL | {"att_context_size": context})
    wave, lengths = torch.randn(3, 9000), torch.tensor([9000, 4321, 1000])
    whole, counts = found(wave, lengths)
    for row, (samples, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        alone, alone_count = found(wave[row : row + 1, :samples], lengths[row : row + 1])
        assert alone_count.tolist() == [count] and alone.size(1) == count
        torch.testing.assert_close(whole[row, :count], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [130, 640, 1280, 5000])
@pytest.mark.parametrize("length", [16000, 15873, 700])
@torch.no_grad()
def test_a_stream_joined_is_the_whole(samples, length):
    found = perception()
    wave = torch.randn(2, length)
    expected, _ = found(wave, torch.full((2,), length))
    stream, parts = found.stream(), []
    for begin in range(0, length, samples):
        parts.append(stream.step(wave[:, begin : begin + samples], last=begin + samples >= length))
        # What was given so far is final, and no more than a chunk and the features' margin is held back.
        held = (min(begin + samples, length) / 160 - 2) // 4 - stream.frames
        assert held <= 2
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.commands
@torch.no_grad()
def test_a_stream_keeps_a_constant_amount():
    stream = perception().stream()
    sizes = set()
    for number in range(60):
        stream.step(torch.randn(1, 1280))
        if number > 10:
            held = [layer.keys.numel() for layer in stream.encoder.layers] + [stream.features._waiting.numel() // 512]
            sizes.add(tuple(held))
    assert len(sizes) == 1


def test_what_needs_the_whole_recording_is_no_stream():
    with pytest.raises(InputError, match="normalize NA"):
        perception(preprocessor=FEATURES | {"normalize": "per_feature"}).stream()
    with pytest.raises(InputError, match="whole recording"):
        perception(encoder=CAUSAL | {"att_context_size": [-1, -1]}).stream()


@torch.no_grad()
def test_a_frozen_encoder_has_no_weights_here():
    encoder = LogMelEncoder()
    adapter = ADAPTER | {"feat_in": encoder.dim * 4}
    found = Perception({"modality_adapter": adapter, "output_dim": 12, "stack": 4}, encoder).eval()
    assert found.frame_rate == encoder.frame_rate / 4
    assert not any(name.startswith("encoder.") for name in found.state_dict())
    wave, lengths = torch.randn(2, 16000), torch.tensor([16000, 7000])
    whole, counts = found(wave, lengths)
    alone, _ = found(wave[1:, :7000], lengths[1:])
    torch.testing.assert_close(whole[1, : counts[1]], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": CAUSAL | {"d_model": 17}}, "17 for 2 heads"),
        ({"encoder": CAUSAL | {"windows": 3}}, "windows is not known"),
        ({"encoder": CAUSAL | {"subsampling_factor": 6}}, "power of two"),
        ({"encoder": CAUSAL | {"self_attention_model": "abs_pos"}}, "rel_pos is expected"),
        ({"encoder": {"_target_": "os.system"}}, "os.system is not known"),
        ({"preprocessor": FEATURES | {"features": 20}}, "20 bands"),
        ({"modality_adapter": ADAPTER | {"feat_in": 8}}, "width 16, feat_in 8"),
    ],
)
def test_bad_sections_are_one_line(changes, message):
    with pytest.raises(InputError, match=message):
        perception(**changes)
