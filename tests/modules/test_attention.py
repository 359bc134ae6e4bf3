"""Attention and its cache against the formula written out over the whole sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.attention import causal_attention
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.dialogue_layer import DialogueLayer
from tests.helpers.published import toy_model


def formula(q: Tensor, k: Tensor, v: Tensor, window: int, sources: int = 1) -> Tensor:
    """Position by position: each attends to the last ``window`` positions, itself among them."""
    heads = q.size(1) // k.size(1)
    k, v = (x.repeat_interleave(heads, 1).unflatten(2, (-1, sources)) for x in (k, v))
    out = []
    for t in range(q.size(2)):
        seen = slice(max(t - window + 1, 0), t + 1)
        keys, values = k[:, :, seen].flatten(2, 3), v[:, :, seen].flatten(2, 3)
        weights = (q[:, :, t : t + 1] @ keys.transpose(2, 3) * q.size(-1) ** -0.5).softmax(-1)
        out.append(weights @ values)
    return torch.cat(out, 2)


def made_up(length: int, sources: int = 1, kv_heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(length)
    q = torch.randn(6, 4, length, 8, dtype=torch.float64)
    k, v = (torch.randn(6, kv_heads, length * sources, 8, dtype=torch.float64) for _ in range(2))
    return q, k, v


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_attention_is_the_formula_for_any_number_of_sources(sources: int) -> None:
    q, k, v = made_up(7, sources)
    torch.testing.assert_close(causal_attention(q, k, v, sources=sources), formula(q, k, v, 7, sources))


def test_a_head_of_keys_serves_several_of_queries() -> None:
    q, k, v = made_up(7, kv_heads=2)
    torch.testing.assert_close(causal_attention(q, k, v), formula(q, k, v, 7))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("cuts", [[1] * 11, [4, 1, 1, 3, 2], [11]])
def test_what_is_read_in_parts_is_attended_to_whole(static: bool, sources: int, cuts: list[int]) -> None:
    q, k, v = made_up(11, sources)
    cache = DecoderCache(11, channels=2, static=static)
    parts, begin = [], 0
    for count in cuts:
        here, there = slice(begin, begin + count), slice(begin * sources, (begin + count) * sources)
        cache.extend(count)
        assert cache.positions.tolist() == list(range(begin, begin + count))
        keys, values = cache.update(0, "self", k[:, :, there], v[:, :, there], sources)
        parts.append(causal_attention(q[:, :, here], keys, values, cache.mask, sources=sources))
        begin += count
        if begin == 4:  # batch rows change places, as in a beam
            rows = torch.tensor([2, 0, 2])
            cache.select(rows)
            inner = torch.stack([2 * rows, 2 * rows + 1], 1).flatten()
            q, k, v = (
                torch.cat([x[inner, :, : begin * n], x[:, :, begin * n :]], 2)
                for x, n in ((q, 1), (k, sources), (v, sources))
            )
            parts = [part[inner] for part in parts]
    torch.testing.assert_close(torch.cat(parts, 2), formula(q, k, v, 11, sources))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("cuts", [[1] * 23, [5, 1, 1, 1, 4, 1, 2, 3, 5], [5, 5, 5, 5, 3], [23], [3, 17, 1, 1, 1]])
def test_a_rolling_cache_keeps_the_last_positions(static: bool, cuts: list[int]) -> None:
    q, k, v = made_up(23)
    cache = DecoderCache(5, rolling=True, static=static)
    parts = []
    for part in zip(*(x.split(cuts, 2) for x in (q, k, v)), strict=True):
        cache.extend(part[0].size(2))
        parts.append(causal_attention(part[0], *cache.update(0, "self", *part[1:]), cache.mask))
    assert cache.length == 23
    torch.testing.assert_close(torch.cat(parts, 2), formula(q, k, v, 5))
    cache.clear()
    keys = cache.extend(4).update(0, "self", k[:, :, :4], v[:, :, :4])[0]
    assert torch.equal(keys, k[:, :, :4])


def test_a_full_cache_is_refused_unless_it_rolls() -> None:
    with pytest.raises(InputError, match="5 positions asked of a cache with room for 4"):
        DecoderCache(4).extend(5)
    assert DecoderCache(4, rolling=True).extend(5).length == 5


@pytest.mark.commands
def test_a_layers_training_forward_compiles_whole() -> None:
    torch.manual_seed(0)
    layer = DialogueLayer(16, 32, 2, cross=True)
    x = torch.randn(2, 3, 12, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    gradients = [torch.autograd.grad(f(x).square().sum(), layer.fc1.weight)[0] for f in (compiled, layer)]
    torch.testing.assert_close(*gradients)


@pytest.mark.commands
@torch.no_grad()
def test_decoding_steps_compile_whole_and_once() -> None:
    decoder = toy_model(3).decoder
    tokens = torch.randint(4, 24, (2, 12, 3))
    whole = decoder(tokens)[0][0]
    graphs = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    step = torch.compile(decoder.forward, fullgraph=True, backend=backend, dynamic=False)
    cache = decoder.make_cache(12, static=True)
    decoder(tokens[:, :5], cache=cache.extend(5))
    for t in range(5, 12):
        (prediction,), _ = step(tokens[:, t : t + 1], cache=cache.extend(1))
        torch.testing.assert_close(prediction.units, whole.units[:, t : t + 1], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(prediction.durations, whole.durations[:, t : t + 1], atol=2e-5, rtol=1e-5)
    assert len(graphs) == 1
