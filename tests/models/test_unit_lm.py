"""The transformer of units: its published size, its formulas, and that batches change nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.models import ARCH_CONFIG_REGISTRY
from torch import Tensor

from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.models import unit_lm
from speechdlm_ext.models.unit_lm import UnitLM, UnitLMConfig
from speechdlm_ext.modules import rotary_layer
from tests.helpers.unit_models import attention_by_definition, plain_logits, toy_unit_lm


def of_arch(name: str, units: int) -> UnitLM:
    args = SimpleNamespace(
        decoder_kv_heads=None,
        decoder_head_dim=None,
        norm_eps=1e-6,
        rope_theta=1e4,
        checkpoint_activations=False,
        durations=False,
    )
    ARCH_CONFIG_REGISTRY[name](args)
    with torch.device("meta"):
        return UnitLM.build_model(args, SimpleNamespace(source_dictionary=UnitDictionary(units)))


def published(model: UnitLM) -> dict[str, Tensor]:
    return {name.removeprefix("decoder."): tensor for name, tensor in model.state_dict().items()}


def test_the_published_shape_is_exact(data: Path) -> None:
    model = of_arch("unit_lm_dpslm", 500)
    assert sum(p.numel() for p in model.parameters()) == 202_378_240
    assert all(layer.dropout == 0.15 for layer in model.decoder.layers)
    listed = (data / "keys" / "mistral_ulm_k500.txt").read_text().splitlines()
    expected = {}
    for line in listed:
        if line and not line.startswith("#"):
            name, shape, _ = line.split("\t")
            expected[name] = shape
    assert {name: str(tuple(tensor.shape)) for name, tensor in published(model).items()} == expected


def test_sizes_are_in_order() -> None:
    sizes = [sum(p.numel() for p in of_arch(f"unit_lm_{n}", 500).parameters()) for n in ("small", "base", "dpslm")]
    assert 4e6 < sizes[0] < 5e6 and 30e6 < sizes[1] < 40e6 and sizes[2] == 202_378_240


@pytest.mark.commands
def test_architectures_are_options_of_the_command_line_and_given_sizes_win() -> None:
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    words = ["data", "--task", "unit_language_modeling", "--criterion", "unit_lm_criterion", "--arch", "unit_lm_dpslm"]
    args = options.parse_args_and_arch(options.get_training_parser(), [*words, "--decoder-layers", "3"])
    model = convert_namespace_to_omegaconf(args).model
    sizes = (model.decoder_embed_dim, model.decoder_ffn_embed_dim, model.decoder_attention_heads, model.dropout)
    assert sizes == (1024, 4096, 16, 0.15) and model.decoder_layers == 3 and not model.durations


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_logits_are_those_of_the_formulas(kv_heads: int) -> None:
    model = toy_unit_lm(decoder_attention_heads=4, decoder_kv_heads=kv_heads, decoder_head_dim=6).eval()
    rows = torch.randint(0, 21, (40,), generator=torch.Generator().manual_seed(1))
    expected = plain_logits(published(model), rows.tolist(), 4, kv_heads)
    with torch.no_grad():
        found = model(rows[None])[0][0]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    # each of these changes the function by much more than that
    for name in ("layers.1.attention.wk.weight", "layers.0.feed_forward.w3.weight", "norm.weight"):
        changed = {**published(model), name: published(model)[name] * 1.1}
        assert float((plain_logits(changed, rows.tolist(), 4, kv_heads) - expected).abs().max()) > 1e-2


def test_logits_are_those_of_another_implementation() -> None:
    """Its rotary positions turn the two halves of a head; a permutation of the rows of wq and wk says the same."""
    transformers = pytest.importorskip("transformers")
    model = toy_unit_lm(decoder_attention_heads=4, decoder_kv_heads=2).eval()
    config = transformers.LlamaConfig(
        vocab_size=21,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    names = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"}
    weights = {}
    for name, tensor in published(model).items():
        if name.endswith(("wq.weight", "wk.weight")):
            tensor = tensor.view(-1, 2, 2, 16).transpose(1, 2).reshape(-1, 16)
        for ours, other in (
            ("tok_embeddings", "model.embed_tokens"),
            ("output", "lm_head"),
            ("attention_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
            ("feed_forward.w1", "mlp.gate_proj"),
            ("feed_forward.w2", "mlp.down_proj"),
            ("feed_forward.w3", "mlp.up_proj"),
            *((f"attention.{own}", f"self_attn.{other}") for own, other in names.items()),
        ):
            name = name.replace(f"{ours}.weight", f"{other}.weight")
        name = f"model.{name}" if name.startswith(("layers", "norm")) else name
        weights[name] = tensor
    theirs.load_state_dict(weights)
    rows = torch.randint(0, 21, (25,))
    with torch.no_grad():
        expected = theirs(rows.unsqueeze(0)).logits[0]
        assert torch.allclose(model(rows[None])[0][0], expected, rtol=1e-4, atol=1e-5)


def padded(rows: list[Tensor], padding: int = 21) -> dict[str, Tensor]:
    """A batch as the collater makes it."""
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    real = torch.tensor([t < len(row) for row in rows for t in range(tokens.size(1))])
    lengths = torch.tensor([len(row) for row in rows])
    return {"src_tokens": tokens, "src_lengths": lengths, "token_index": real.nonzero().squeeze(1)}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lengths", [[5, 5, 3, 1], [1, 7, 2, 7], [4]])
def test_batches_are_single_sequences(lengths: list[int], packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded, and packed as on a GPU, with torch's kernel replaced by its definition."""
    if packed:
        monkeypatch.setattr(rotary_layer, "varlen_attn", attention_by_definition)
        monkeypatch.setattr(unit_lm, "can_pack", lambda x: True)
    model = toy_unit_lm(durations=True)
    rows = [torch.randint(0, 21, (n,)) for n in lengths]
    logits, extra = model(**padded(rows))
    weight = torch.randn(sum(lengths), 21)
    real = padded(rows)["token_index"]
    found = torch.autograd.grad((logits.flatten(0, 1)[real] * weight).sum(), model.decoder.layers.parameters())
    alone = [model(row.unsqueeze(0)) for row in rows]
    for row, (single, of_single) in enumerate(alone):
        assert torch.allclose(logits[row, : lengths[row]], single[0], atol=1e-5)
        assert torch.allclose(extra["durations"][row, : lengths[row]], of_single["durations"][0], atol=1e-5)
    together = torch.cat([single[0] for single, _ in alone])
    expected = torch.autograd.grad((together * weight).sum(), model.decoder.layers.parameters())
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) < 1e-5 * float(other.norm())
    probabilities = model.get_normalized_probs((logits, {}), False)
    assert probabilities.shape[-1] == 22 and bool(probabilities[..., 21].eq(0).all())


def test_positions_beyond_8000_are_exact() -> None:
    model = toy_unit_lm(decoder_embed_dim=4, decoder_ffn_embed_dim=4, decoder_layers=1, decoder_attention_heads=1)
    rows = torch.randint(0, 21, (8_300,))
    with torch.no_grad():
        found = model.eval()(rows[None])[0][0, -1]
        w = {name: tensor.double() for name, tensor in published(model).items()}
        h = w["tok_embeddings.weight"][rows]
        normed = h / (h.square().mean(1, keepdim=True) + 1e-6).sqrt() * w["layers.0.attention_norm.weight"]
        q, k, v = (normed @ w[f"layers.0.attention.{name}.weight"].t() for name in ("wq", "wk", "wv"))
        # the last query against all keys, its angle relative to theirs
        distance = 8_299 - torch.arange(8_300, dtype=torch.float64)
        angle = distance.unsqueeze(1) * torch.tensor([1.0, 0.01], dtype=torch.float64)
        pairs = torch.view_as_complex(k.view(-1, 2, 2).contiguous()) * torch.polar(torch.ones_like(angle), -angle)
        score = (torch.view_as_real(pairs).flatten(1) @ q[-1]) / 2
        x = h[-1] + w["layers.0.attention.wo.weight"] @ (score.softmax(0) @ v)
        inner = x / (x.square().mean() + 1e-6).sqrt() * w["layers.0.ffn_norm.weight"]
        gated = F.silu(w["layers.0.feed_forward.w1.weight"] @ inner) * (w["layers.0.feed_forward.w3.weight"] @ inner)
        x = x + w["layers.0.feed_forward.w2.weight"] @ gated
        expected = w["output.weight"] @ (x / (x.square().mean() + 1e-6).sqrt() * w["norm.weight"])
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_bf16_normalises_in_fp32() -> None:
    model = toy_unit_lm().eval()
    rows = torch.randint(0, 21, (40,))
    with torch.no_grad():
        expected = model(rows[None])[0]
        norm = model.bfloat16().decoder.norm
        big = torch.full((1, 16), 300.0, dtype=torch.bfloat16)  # 16 squares do not add up in bf16
        assert torch.allclose(norm(big).float(), norm.weight.float(), rtol=0.01)
        found = model(rows[None])[0]
    assert found.dtype == torch.bfloat16
    assert float((found.float() - expected).norm() / expected.norm()) < 0.05


def test_gradients_with_dropout_and_recomputed_activations_are_the_same() -> None:
    gradients = []
    rows = torch.randint(0, 21, (2, 7))
    for again in (False, True):
        model = toy_unit_lm(dropout=0.3, checkpoint_activations=again).train()
        torch.manual_seed(7)
        out, _ = model(rows)
        out.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    torch.manual_seed(8)
    assert not torch.equal(model(rows)[0], out)  # dropout is at work


def test_contradicting_options_are_refused() -> None:
    for options, message in (
        ({"decoder_attention_heads": 3}, "not a multiple"),
        ({"decoder_head_dim": 5}, "pairs"),
        ({"decoder_attention_heads": 4, "decoder_kv_heads": 3}, "does not divide"),
    ):
        with pytest.raises(InputError, match=message):
            toy_unit_lm(**options)
    assert UnitLMConfig().decoder_layers == 8


def test_weights_of_another_codebook_are_refused_in_one_line() -> None:
    model, other = toy_unit_lm(units=20), toy_unit_lm(units=25)
    with pytest.raises(InputError, match="codebook of 25 units, 20 are expected.*--units 25"):
        model.load_state_dict(other.state_dict())
    weights = model.state_dict()
    del weights["decoder.norm.weight"]
    with pytest.raises(InputError, match=r"no weights decoder\.norm\.weight"):
        toy_unit_lm(units=20).load_state_dict(weights)
