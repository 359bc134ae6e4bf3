"""WavTokenizer beside the outputs of the public code on small models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel, published_weights

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "wavtokenizer"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs ../shared/reference/wavtokenizer")


def load(name: str) -> tuple[WavTokenizerModel, dict[str, Tensor]]:
    """A model of the reference, and its arrays."""
    state = torch.load(REFERENCE / name / "model.ckpt", weights_only=True)["state_dict"]
    weights = published_weights(state)
    model = WavTokenizerModel(WavTokenizerConfig.of_weights(weights))
    model.load_state_dict(weights, strict=True)
    arrays = {key: torch.from_numpy(value) for key, value in np.load(REFERENCE / name / "arrays.npz").items()}
    arrays = {key: value.long() if value.dtype == torch.int16 else value for key, value in arrays.items()}
    return model.eval(), arrays


@pytest.mark.parametrize("name", ["small", "hop600"])
@torch.no_grad()
def test_clips_are_encoded_and_decoded_as_by_the_public_code(name: str) -> None:
    model, arrays = load(name)
    config = json.loads((REFERENCE / name / "info.json").read_text())["config"]
    assert model.config.hop == config["hop_length"] and model.config.ratios == tuple(config["downsamples"])
    for i in range(3):
        wave = arrays[f"clip{i}_wave"].unsqueeze(0)
        embedding = model.embed(wave, torch.tensor([wave.size(1)]))[0]
        assert torch.allclose(embedding, arrays[f"clip{i}_embedding"], atol=1e-4, rtol=1e-4)
        assert torch.equal(model.encode(wave)[0], arrays[f"clip{i}_codes"])
        sound = model.decode(arrays[f"clip{i}_codes"].unsqueeze(0))[0]
        assert (sound - arrays[f"clip{i}_audio"]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["small", "hop600"])
@torch.no_grad()
def test_short_sounds_codes_and_bandwidths(name: str) -> None:
    model, arrays = load(name)
    for key in arrays:
        if key.startswith("short") and key.endswith("_wave"):
            assert torch.equal(model.encode(arrays[key].unsqueeze(0))[0], arrays[key.replace("_wave", "_codes")]), key
    for j in range(6):
        sound = model.decode(arrays[f"decode{j}_codes"].unsqueeze(0))[0]
        assert (sound - arrays[f"decode{j}_audio"]).abs().max() < 1e-4
    for b in range(4):
        sound = model.decode(arrays["bandwidth_codes"].view(1, -1), bandwidth=b)[0]
        assert (sound - arrays[f"bandwidth{b}_audio"].flatten()).abs().max() < 1e-4


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows beside each other, with noise where there is none, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    size = int(lengths.max())
    batch = torch.stack([torch.cat([row, (torch.rand(size - len(row)) * 50).to(row.dtype)]) for row in rows])
    return batch, lengths


@pytest.mark.parametrize("name", ["small", "hop600"])
@torch.no_grad()
def test_rows_of_a_batch_are_what_they_are_alone(name: str) -> None:
    model, arrays = load(name)
    waves = [arrays["clip0_wave"], arrays["clip1_wave"][:1234], arrays["clip2_wave"][:9001], arrays["clip2_wave"][:5]]
    codes = [model.encode(wave.unsqueeze(0))[0] for wave in waves]
    together = model.encode(*padded(waves))
    for row, own in zip(together, codes, strict=True):
        assert torch.equal(row[: len(own)], own)
    sounds = model.decode(*padded(codes))
    for row, own in zip(sounds, codes, strict=True):
        alone = model.decode(own.unsqueeze(0))[0]
        assert (row[: len(alone)] - alone).abs().max() < 1e-4 and not row[len(alone) :].any()
