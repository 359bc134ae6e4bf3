"""WavTokenizer beside the outputs of the public code on small models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from speechdlm_ext.codecs.wavtokenizer import WavTokenizerCodec
from speechdlm_ext.modules import wavtokenizer
from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel, published_weights
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer
from tests.helpers.references import reference_path


def load(name: str) -> tuple[WavTokenizerModel, dict[str, Tensor]]:
    """A model of the reference, and its arrays."""
    folder = reference_path(f"wavtokenizer/{name}")
    state = torch.load(folder / "model.ckpt", weights_only=True)["state_dict"]
    weights = published_weights(state)
    model = WavTokenizerModel(WavTokenizerConfig.of_weights(weights))
    model.load_state_dict(weights, strict=True)
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / "arrays.npz").items()}
    arrays = {key: value.long() if value.dtype == torch.int16 else value for key, value in arrays.items()}
    return model.eval(), arrays


@pytest.mark.parametrize("name", ["small", "hop600"])
@torch.no_grad()
def test_clips_are_encoded_and_decoded_as_by_the_public_code(name: str) -> None:
    model, arrays = load(name)
    config = json.loads((reference_path(f"wavtokenizer/{name}") / "info.json").read_text())["config"]
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


@pytest.fixture(scope="module")
def small() -> WavTokenizerModel:
    torch.manual_seed(1)
    model = WavTokenizerModel(WavTokenizerConfig((2, 2, 3, 2), 4, 8, 32, 32, 48, 2))
    torch.nn.init.normal_(model.codebook)
    return model.eval()


@torch.no_grad()
def test_long_sound_is_encoded_in_pieces_to_the_codes_of_the_whole(
    small: WavTokenizerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop = small.config.hop
    waves = [torch.randn(50 * hop + 7), torch.randn(20 * hop + 1), torch.randn(5)]
    whole = [small.encode(wave.unsqueeze(0))[0] for wave in waves]
    embedded = small.embed(waves[0].unsqueeze(0), torch.tensor([len(waves[0])]))
    monkeypatch.setattr(wavtokenizer, "PIECE", 10)
    for wave, codes in zip(waves, whole, strict=True):
        assert torch.equal(small.encode(wave.unsqueeze(0))[0], codes)
    for row, codes in zip(small.encode(*padded(waves)), whole, strict=True):
        assert torch.equal(row[: len(codes)], codes)
    again = small.embed(waves[0].unsqueeze(0), torch.tensor([len(waves[0])]))
    assert torch.allclose(again, embedded, atol=1e-5)


@torch.no_grad()
def test_long_codes_are_decoded_in_pieces_that_fade_into_one_another(
    small: WavTokenizerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop, codes = small.config.hop, torch.randint(0, 32, (150,))
    whole = small.decode(codes.unsqueeze(0))[0]
    monkeypatch.setattr(wavtokenizer, "PIECE", 60)
    monkeypatch.setattr(wavtokenizer, "OVERLAP", 20)
    made = small.decode(codes.unsqueeze(0))[0]
    assert made.shape == (150 * hop,)
    assert (made - whole).norm() / whole.norm() < 0.9  # what docs/unit_to_codec.md says of random weights
    starts = (0, 40, 80, 120)
    pieces = [small.decode(codes[None, start : start + 60])[0] for start in starts]
    for start, piece in zip(starts, pieces, strict=True):  # alone in its middle
        begin, end = (start + 15 * (start > 0)) * hop, min(start + 45, 150) * hop
        assert torch.equal(made[begin:end], piece[begin - start * hop : end - start * hop])
    for start, one, other in zip(starts[1:], pieces, pieces[1:], strict=False):  # between both where they fade
        mixed, a, b = made[(start + 5) * hop : (start + 15) * hop], one[45 * hop : 55 * hop], other[5 * hop : 15 * hop]
        assert bool(((mixed >= torch.minimum(a, b) - 1e-5) & (mixed <= torch.maximum(a, b) + 1e-5)).all())
    # Rows of a batch are what they are alone, long or not.
    rows = [codes, codes[:70], codes[:31]]
    sounds = small.decode(*padded(rows))
    for row, own in zip(sounds, rows, strict=True):
        alone = small.decode(own.unsqueeze(0))[0]
        assert (row[: len(alone)] - alone).abs().max() < 1e-4 and not row[len(alone) :].any()


@torch.no_grad()
def test_long_sound_is_held_once(small: WavTokenizerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are written where they belong: of what is as long as the sound there is one tensor."""
    monkeypatch.setattr(wavtokenizer, "PIECE", 60)
    monkeypatch.setattr(wavtokenizer, "OVERLAP", 20)
    codes = torch.randint(0, 32, (1, 1, 2000))
    size, held = 2000 * small.config.hop * 4, set()

    class Storages(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            for tensor in pytree.tree_leaves(found):
                if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= size:
                    held.add(tensor.untyped_storage().data_ptr())
            return found

    with Storages():
        sound = WavTokenizerCodec(WavTokenizer(small)).decode(codes)
    assert held == {sound.untyped_storage().data_ptr()}


@torch.no_grad()
def test_codes_and_sound_are_those_of_transformers(small: WavTokenizerModel) -> None:
    """Another implementation of the same codec, which needs no files."""
    config = small.config
    other = transformers.WavTokenizerModel(
        transformers.WavTokenizerConfig(
            codebook_dim=config.code_dim,
            codebook_size=config.codes,
            hidden_size=config.code_dim,
            num_filters=config.filters,
            upsampling_ratios=list(config.ratios),
            decoder_hidden_size=config.dim,
            decoder_intermediate_size=config.inner_dim,
            decoder_num_layers=config.layers,
            adanorm_num_embeddings=config.bandwidths,
        )
    ).eval()
    names = {
        "feature_extractor.encodec.encoder.model.": "encoder_model.encoder.layers.",
        wavtokenizer.QUANTIZER: "encoder_model.quantizer.codebook.",
        ".conv.conv.": ".conv.",
        "head.out.": "head.linear.",
    }
    weights = small.state_dict()
    del weights["head.istft.window"]
    for ours, theirs in names.items():
        weights = {name.replace(ours, theirs): tensor for name, tensor in weights.items()}
    other.load_state_dict(weights, strict=True)
    wave = torch.randn(1, 3001)
    codes = small.encode(wave)
    assert torch.equal(other.encode(wave.unsqueeze(1)).audio_codes.flatten(), codes.flatten())
    wanted = other.decode(codes.view(1, 1, -1)).audio_values.flatten()
    assert (small.decode(codes)[0] - wanted).abs().max() < 1e-4
