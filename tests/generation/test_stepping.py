"""Frame by frame with joined and packed weights against the decoder's own forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speechdlm_ext.generation.stepping import SteppingDecoder
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.packed_linear import PackedLinear
from tests.generation.test_dialogue_generator import generator, prompt
from tests.published import toy_model


@pytest.mark.parametrize("rows", [1, 2, 10])
@pytest.mark.parametrize("relu", [False, True])
@torch.no_grad()
def test_joined_layers_give_what_each_gives(rows: int, relu: bool) -> None:
    layers = [nn.Linear(24, 8), nn.Linear(24, 1), nn.Linear(24, 5, bias=False)]
    x = torch.randn(rows, 24)
    wanted = torch.cat([layer(x) for layer in layers], -1)
    joined = PackedLinear(layers, rows, relu)
    torch.testing.assert_close(joined(x), wanted.relu() if relu else wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {}),
        (2, {}),
        (3, {}),
        (2, {"activation_fn": "gelu", "no_decoder_final_norm": True, "main_and_cross_weights": "0.5,0.5"}),
        (2, {"duration_prediction": "False", "decoder_learned_pos": True, "layernorm_embedding": True}),
        (2, {"checkpoint_activations": True, "no_scale_embedding": True}),
    ],
)
@torch.no_grad()
def test_each_frame_gets_what_the_whole_sequence_gives(channels: int, options: dict) -> None:
    model = toy_model(channels, **options)
    tokens = torch.randint(4, 24, (3, 12, channels))
    whole = model(tokens)[0][0]
    near = 1e-5 * max(1.0, float(whole.units.abs().max()))  # without the final norm logits reach 140
    cache, step = DecoderCache(12), SteppingDecoder(model.decoder, 3)
    model.decoder(tokens[:, :4], cache=cache)
    for frame in range(4, 12):
        units, durations = step(tokens[:, frame], cache)
        torch.testing.assert_close(units, whole.units[:, frame], atol=near, rtol=0)
        if whole.durations is None:
            assert durations is None
        else:
            torch.testing.assert_close(durations, whole.durations[:, frame], atol=near, rtol=0)


def test_weights_that_changed_are_seen_by_the_next_call() -> None:
    model = toy_model(duration_prediction="False")
    core = generator(model, max_len_b=20)
    (before,) = core.generate([prompt(4)], [0])[0]
    with torch.no_grad():
        model.decoder.layers[0].fc1.weight.mul_(-1.0)
    (after,) = core.generate([prompt(4)], [0])[0]
    (anew,) = generator(model, max_len_b=20).generate([prompt(4)], [0])[0]
    torch.testing.assert_close(after.positional_scores, anew.positional_scores)
    assert not torch.allclose(after.positional_scores, before.positional_scores)
