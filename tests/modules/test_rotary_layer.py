"""The rotary layer against its formulas, packed against padded, compiled against eager."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from speechdlm_ext.modules import rotary_layer
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.rotary_layer import Packing, RotaryLayer, rotary_angles, rotary_table, rotate
from tests.helpers.unit_models import attention_by_definition


def toy_layer(dropout: float = 0.0, kv_heads: int = 2) -> RotaryLayer:
    torch.manual_seed(0)
    return RotaryLayer(8, 12, 4, kv_heads, 4, 1e-6, dropout)


def angles(length: int, dtype: torch.dtype = torch.float32, start: int = 0) -> tuple[Tensor, Tensor]:
    return rotary_angles(torch.arange(start, start + length), 4, 1e4, dtype)


def plain_layer(layer: RotaryLayer, x: Tensor) -> Tensor:
    """One sequence ``(T, D)``, query by query."""
    length, head_dim = len(x), 4
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.attention_norm.weight
    q, k, v = (normed @ getattr(layer.attention, name).weight.t() for name in ("wq", "wk", "wv"))
    turns = torch.polar(
        torch.ones(length, 2, dtype=torch.float64),
        torch.arange(length).unsqueeze(1) * torch.tensor([1.0, 1e-2], dtype=torch.float64),
    )
    heads, kv_heads = q.size(1) // head_dim, k.size(1) // head_dim

    def head(part: Tensor, number: int) -> Tensor:
        pairs = part[:, number * head_dim : (number + 1) * head_dim].contiguous().view(length, 2, 2)
        return torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(1)

    out = []
    for number in range(heads):
        group = number // (heads // kv_heads)
        keys, values = head(k, group), v[:, group * head_dim : (group + 1) * head_dim]
        queries = head(q, number)
        seen = [(keys[: t + 1] @ queries[t] / head_dim**0.5).softmax(0) @ values[: t + 1] for t in range(length)]
        out.append(torch.stack(seen))
    x = x + torch.cat(out, 1) @ layer.attention.wo.weight.t()
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.ffn_norm.weight
    gate, hidden = (normed @ getattr(layer.feed_forward, name).weight.t() for name in ("w1", "w3"))
    return x + gate / (1 + (-gate).exp()) * hidden @ layer.feed_forward.w2.weight.t()


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_values_and_gradients_are_those_of_the_formulas(kv_heads: int) -> None:
    layer = toy_layer(kv_heads=kv_heads).double()
    x = torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True)
    found = layer(x, angles(7, torch.float64))
    expected = torch.stack([plain_layer(layer, row) for row in x])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_and_norms_and_angles_are_exact(dtype: torch.dtype) -> None:
    layer, x = toy_layer(), torch.randn(2, 9, 8)
    expected = layer(x, angles(9))
    with torch.autocast("cpu", dtype):
        out = layer(x, angles(9))
    assert float((out - expected).norm() / expected.norm()) < 0.02
    out.square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
    own = layer.to(dtype)(x.to(dtype), angles(9, dtype))
    assert own.dtype == dtype and float((own.float() - expected).norm() / expected.norm()) < 0.05
    assert angles(3, dtype)[0].dtype == torch.float32


def test_far_positions_are_exact_and_only_distances_matter() -> None:
    x = torch.randn(1, 1, 64)
    expected = None
    for start in (0, 8_000, 5_000_000):
        rotary = rotary_angles(torch.tensor([start, start + 3]), 64, 1e4, x.dtype)
        first, second = rotate(x.expand(2, 1, 64), rotary).double()
        product = float((first * second).sum())
        expected = product if expected is None else expected
        assert product == pytest.approx(expected, rel=1e-5)


def test_the_table_is_kept_and_as_long_as_needed() -> None:
    for length in (1, 5, 1024, 1025, 3000):
        for table, direct in zip(
            rotary_table(length, 4, 1e4, torch.device("cpu"), torch.bfloat16), angles(length), strict=True
        ):
            assert torch.equal(table, direct)
    with torch.inference_mode():
        rotary_table(7_000, 4, 1e4, torch.device("cpu"), torch.float32)
    x = torch.randn(1, 7_000, 2, 4, requires_grad=True)  # what was made for inference serves training
    rotate(x, rotary_table(7_000, 4, 1e4, torch.device("cpu"), torch.float32)).sum().backward()


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_packed_sequences_are_each_sequence_alone(kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has the kernel on GPUs alone; here it is replaced by its definition."""
    monkeypatch.setattr(rotary_layer, "varlen_attn", attention_by_definition)
    layer, lengths = toy_layer(kv_heads=kv_heads), [3, 1, 7, 4]
    rows = [torch.randn(n, 8) for n in lengths]
    packing = Packing(torch.tensor([0, 3, 4, 11, 15], dtype=torch.int32), 7)
    rotary = rotary_angles(torch.cat([torch.arange(n) for n in lengths]), 4, 1e4, torch.float32)
    found = layer(torch.cat(rows).unsqueeze(0), rotary, packing)[0]
    expected = torch.cat([layer(row.unsqueeze(0), angles(len(row)))[0] for row in rows])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.commands
def test_a_layer_compiles_whole_in_training_and_in_decoding() -> None:
    layer = toy_layer(dropout=0.5).train()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 9, 8, requires_grad=True)
    compiled(x, angles(9)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    layer.eval()
    with torch.no_grad():
        expected = layer(x, angles(9))
        cache = DecoderCache(16, rolling=True, static=True)

        @torch.compile(fullgraph=True, backend="aot_eager")
        def step(x: Tensor) -> Tensor:
            return layer(x, rotary_angles(cache.positions, 4, 1e4, x.dtype), None, cache)  # type: ignore[no-any-return]

        cache.extend(4)
        parts = [layer(x[:, :4], angles(4), None, cache)]
        for t in range(4, 9):
            cache.extend(1)
            # The second step knows which sizes change, from the third on nothing is compiled.
            with torch._dynamo.config.patch(error_on_recompile=t > 5):
                parts.append(step(x[:, t : t + 1]))
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=1e-5)
