"""The SpeechDLM against the published code's outputs, and against the formulas written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.models.speech_dlm import SpeechDLM
from speechdlm_ext.modules.cache import DecoderCache
from tests.helpers.published import CHANNELS, VARIANTS, batch, load, toy_model


@pytest.mark.parametrize("name", ["full", "padded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_durations_and_inner_states_are_the_published_ones(reference: Path, variant: str, name: str) -> None:
    model, _, _ = load(reference, variant)
    sample, arrays = batch(reference, variant, name)
    inner = []
    hooks = [
        layer.register_forward_hook(lambda _, args, out: inner.append((args[0], out))) for layer in model.decoder.layers
    ]
    with torch.no_grad():
        heads, _ = model(**sample["net_input"])
    for hook in hooks:
        hook.remove()
    real = np.arange(64) < arrays["src_lengths"][:, None]
    assert len(heads) == (1 if variant == "A" else 2)
    for offset, head in enumerate(heads):
        for c, predicted in enumerate(CHANNELS):
            source = CHANNELS[(c - offset) % 2]
            expected = arrays[f"pred_token_{source}_{predicted}"]
            np.testing.assert_allclose(head.units[:, :, c].numpy()[real], expected[real], atol=2e-5)
            expected = arrays[f"pred_duration_{source}_{predicted}"][..., 0]
            np.testing.assert_allclose(head.durations[:, :, c].numpy()[real], expected[real], atol=2e-5)
    for i, states in enumerate([inner[0][0], *(out for _, out in inner)]):  # ours (B, C, T, D), theirs (C, T, B, D)
        ours, theirs = states.permute(0, 2, 1, 3).numpy(), arrays[f"inner_{i}"].transpose(2, 1, 0, 3)
        np.testing.assert_allclose(ours[real], theirs[real], atol=5e-5)


def test_state_dict_has_the_published_keys_and_shapes(data: Path) -> None:
    model = toy_model(units=500, decoder_embed_dim=128, decoder_ffn_embed_dim=512)
    lines = (data / "keys" / "speech_dlm_reference_A.txt").read_text().splitlines()
    published = {line.split("\t")[0]: line.split("\t")[1] for line in lines if line.startswith("decoder.")}
    assert {key: str(tuple(value.shape)) for key, value in model.state_dict().items()} == published


def naive_states(model: SpeechDLM, tokens: Tensor) -> Tensor:
    """The architecture written out for one row, query by query: ``(C, T, D)`` before the output heads."""
    decoder, heads = model.decoder, 4
    channels, length = tokens.shape[1], tokens.shape[0]
    dim = decoder.embed_tokens.embedding_dim
    half = dim // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angles = (torch.arange(length) + 2)[:, None] * rates
    x = math.sqrt(dim) * decoder.embed_tokens.weight[tokens.t()] + torch.cat([angles.sin(), angles.cos()], -1)

    def attend(block: torch.nn.Module, query: Tensor, keys: Tensor) -> Tensor:
        q = block.q_proj(query).view(heads, -1)
        k, v = (p(keys).view(len(keys), heads, -1) for p in (block.k_proj, block.v_proj))
        weights = torch.stack([(k[:, h] @ q[h] / math.sqrt(dim // heads)).softmax(0) for h in range(heads)])
        return block.out_proj(torch.cat([weights[h] @ v[:, h] for h in range(heads)]))

    for layer in decoder.layers:
        normed = layer.self_attn_layer_norm(x)
        own = [
            [attend(layer.self_attn, normed[c, t], normed[c, : t + 1]) for t in range(length)] for c in range(channels)
        ]
        x = x + torch.stack([torch.stack(row) for row in own])
        if layer.cross_channel_attn is not None:
            queries = layer.cross_channel_attn_layer_norm(x)
            rows = []
            for c in range(channels):
                others = [o for o in range(channels) if o != c]
                keys = [torch.cat([x[o, : t + 1] for o in others]) for t in range(length)]
                rows.append(
                    torch.stack([attend(layer.cross_channel_attn, queries[c, t], keys[t]) for t in range(length)])
                )
            x = x + torch.stack(rows)
        x = x + layer.fc2(F.relu(layer.fc1(layer.final_layer_norm(x))))
    return decoder.layer_norm(x)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_states_are_the_formulas_ones_for_any_number_of_channels(channels: int) -> None:
    model = toy_model(channels)
    tokens = torch.randint(4, 24, (2, 9, channels))
    with torch.no_grad():
        states = model.decoder.extract_features(tokens)
        for row in range(2):
            torch.testing.assert_close(states[row], naive_states(model, tokens[row]), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 1, 5], [12], [3, 9]])
def test_with_a_cache_every_position_gets_what_the_whole_sequence_gives(channels: int, cuts: list[int]) -> None:
    model = toy_model(channels)
    tokens = torch.randint(4, 24, (3, 12, channels))
    cache = model.decoder.make_cache(12)
    with torch.no_grad():
        whole = model(tokens)[0][0]
        parts = [model.decoder(part, cache=cache.extend(part.size(1)))[0][0] for part in tokens.split(cuts, 1)]
    torch.testing.assert_close(torch.cat([part.units for part in parts], 1), whole.units, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([part.durations for part in parts], 1), whole.durations, atol=2e-5, rtol=1e-5)


def test_a_full_cache_is_refused() -> None:
    with pytest.raises(InputError, match="room for 4"):
        DecoderCache(4).extend(5)


def test_predicting_at_positions_is_predicting_everywhere_and_choosing() -> None:
    model = toy_model(2, main_and_cross_weights="0.5,0.5")
    tokens = torch.randint(4, 24, (2, 10, 2))
    at = (torch.tensor([0, 1, 1]), torch.tensor([3, 0, 9]), torch.tensor([1, 0, 1]))
    late = (torch.tensor([1]), torch.tensor([4]), torch.tensor([0]))
    with torch.no_grad():
        everywhere, chosen = model(tokens)[0], model(tokens, at=at, durations_at=late)[0]
    for whole, part in zip(everywhere, chosen, strict=True):
        torch.testing.assert_close(part.units, whole.units[at])
        torch.testing.assert_close(part.durations, whole.durations[late])


def test_checkpointed_activations_give_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = toy_model(2, checkpoint_activations=checkpointed).train()
        model(torch.arange(4, 24).view(1, 10, 2))[0][0].units.square().sum().backward()
        gradients.append(
            {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in model.named_parameters()}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (2, {"decoder_cross_layers": 4}, "--decoder-cross-layers 4: the model has 3 layers"),
        (1, {"decoder_cross_layers": 1}, "needs two channels"),
        (2, {"decoder_attention_heads": 5}, "not a multiple"),
        (2, {"main_and_cross_weights": "1"}, "two numbers are expected"),
        (2, {"duration_prediction": "maybe"}, "--duration-prediction maybe"),
    ],
)
def test_options_that_contradict_are_refused(channels: int, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy_model(channels, **options)


def test_without_a_number_all_layers_are_cross_layers_unless_there_is_one_channel() -> None:
    assert all(layer.cross_channel_attn is not None for layer in toy_model(2, decoder_cross_layers=-1).decoder.layers)
    assert all(layer.cross_channel_attn is None for layer in toy_model(1, decoder_cross_layers=-1).decoder.layers)
