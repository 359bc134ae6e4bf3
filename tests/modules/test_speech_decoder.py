"""The speech decoder of duplex models: beside a plain computation, frame by frame, and with guidance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.speech_decoder import SpeechDecoder, SpeechDecoderOptions

SHAPE = {"d_model": 8, "d_ffn": 12, "n_layers": 2, "sa_n_heads": 2, "kernel_size": 3, "max_length_causal_mask": 24}


def _decoder(**options):
    torch.manual_seed(1)
    settings = {**SHAPE, "use_learnable_pos_emb": True, "apply_norm_out": True, **options}
    return SpeechDecoder(SpeechDecoderOptions.of(settings), 6, codebooks=3, codes=7).eval()


def _inputs(frames=20, rows=2):
    torch.manual_seed(2)
    return torch.randn(rows, frames, 6), torch.randint(7, (rows, frames, 3))


def _plain(decoder, hidden, codes, weight_of_hidden=1.0):
    """One row, frame by frame, by loops over positions and heads."""
    state = dict(decoder.named_parameters())
    x = F.linear(hidden, state["input_proj.weight"], state["input_proj.bias"]) * weight_of_hidden
    x = x + sum(state[f"audio_embeddings.{k}.weight"][codes[:, k]] for k in range(3)) / 3
    x = x + state["t5_decoder.position_embeddings.weight"][: len(x)]

    def conv(x, weight):
        padded = torch.cat([torch.zeros(2, x.size(1)), x])
        return torch.stack([torch.einsum("ock,kc->o", weight, padded[t : t + 3]) for t in range(len(x))])

    for layer in range(2):
        name = f"t5_decoder.layers.{layer}."
        normed = F.layer_norm(x, (8,), state[name + "norm_self.weight"])
        q, k, v = (normed @ state[name + "self_attention.qkv_net.weight"].T).split(8, -1)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            rows = [((q[t, part] @ k[: t + 1, part].T) / 2).softmax(-1) @ v[: t + 1, part] for t in range(len(x))]
            heads.append(torch.stack(rows))
        x = x + torch.cat(heads, -1) @ state[name + "self_attention.o_net.weight"].T
        hidden = conv(
            F.layer_norm(x, (8,), state[name + "norm_pos_ff.weight"]), state[name + "pos_ff.proj.conv.weight"]
        )
        x = x + conv(F.gelu(hidden, approximate="tanh"), state[name + "pos_ff.o_net.conv.weight"])
    x = F.layer_norm(x, (8,), state["t5_decoder.norm_out.weight"])
    return F.linear(x, state["final_proj.weight"], state["final_proj.bias"]).view(len(x), 3, 7)


@torch.no_grad()
def test_decoder_is_the_plain_computation():
    decoder = _decoder()
    hidden, codes = _inputs()
    logits = decoder(hidden, codes)
    for row in range(2):
        assert torch.allclose(logits[row], _plain(decoder, hidden[row], codes[row]), atol=1e-5)


@torch.no_grad()
def test_guidance_mixes_with_and_without_the_language_model():
    decoder = _decoder(cfg_unconditional_prob=0.1, cfg_scale=2.5)
    hidden, codes = _inputs(rows=1)
    known, other = (_plain(decoder, hidden[0], codes[0], weight) for weight in (1.0, 0.0))
    assert torch.allclose(decoder(hidden, codes)[0], 2.5 * known - 1.5 * other, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("guided", [None, 0.1])
def test_frame_by_frame_is_the_whole(guided):
    decoder = _decoder(cfg_unconditional_prob=guided)
    hidden, codes = _inputs()
    state = decoder.make_state(20)
    parts = [(0, 7), *((t, t + 1) for t in range(7, 20))]
    made = torch.cat([decoder(hidden[:, a:b], codes[:, a:b], state) for a, b in parts], 1)
    assert torch.allclose(made, decoder(hidden, codes), atol=1e-5)


@torch.no_grad()
def test_positions_that_run_out_are_used_again_from_the_latest_half():
    decoder = _decoder()
    hidden, codes = _inputs(30)
    state = decoder.make_state(24, rolling=True)
    made = torch.cat([decoder(hidden[:, t : t + 1], codes[:, t : t + 1], state) for t in range(30)], 1)
    assert torch.allclose(made[:, :24], decoder(hidden[:, :24], codes[:, :24]), atol=1e-5)
    # The 25th frame does not fit: it and the 11 before it are read anew, and what follows continues from there.
    assert torch.allclose(made[:, 24:], decoder(hidden[:, 13:], codes[:, 13:])[:, 11:], atol=1e-5)
    with pytest.raises(InputError, match="positions for 24"):
        decoder(hidden, codes)


def test_training_drops_whole_rows_at_random():
    hidden, codes = _inputs(rows=400)
    decoder = _decoder(cfg_unconditional_prob=0.25).train()
    decoder.input_proj.bias.data.zero_()
    with torch.no_grad():
        logits, without = decoder(hidden, codes), decoder(torch.zeros_like(hidden), codes)
    dropped = (logits - without).abs().amax((1, 2, 3)) < 1e-6
    assert 60 < int(dropped.sum()) < 140


def test_unsupported_options_are_refused():
    with pytest.raises(InputError, match="has_xattn"):
        SpeechDecoderOptions.of({"has_xattn": True})
    with pytest.raises(InputError, match="n_lajers"):
        SpeechDecoderOptions.of({"n_lajers": 2})
    with pytest.raises(InputError, match="no multiple"):
        SpeechDecoderOptions.of({"d_model": 10, "sa_n_heads": 4})
