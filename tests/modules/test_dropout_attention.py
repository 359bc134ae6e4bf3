"""Attention with dropout on a CPU: its masks, and itself against the formula with the same masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from speechdlm_ext.modules import dropout_attention as module
from speechdlm_ext.modules.attention import CausalAttention
from speechdlm_ext.modules.dropout_attention import DropoutMasks, dropout_attention


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.999])
def test_masks_drop_as_often_as_asked_and_independently(probability: float) -> None:
    masks = DropoutMasks(probability, seed=3)
    first, second = masks.draw(torch.empty(1000, 300)), masks.draw(torch.empty(1000, 300))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    deviation = math.sqrt(probability * (1 - probability) / first.numel())
    assert abs(float(first.mean()) - (1 - probability)) < 4 * deviation
    for other in (second, first.roll(1), first.roll(1, 0), first.roll(4)):
        both = float((first * other).mean())
        assert abs(both - (1 - probability) ** 2) < 8 * deviation
    assert masks.scale * (1 - probability) == pytest.approx(1, rel=0.02)
    assert torch.equal(first, DropoutMasks(probability, seed=3).draw(torch.empty(1000, 300)))


def formula(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Attention written out over whole matrices; ``kept`` ``(N, H, T, keys)``."""
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))).masked_fill(~visible, -torch.inf)
    weights = scores.softmax(-1).masked_fill(~visible, 0)
    return (weights * kept * scale) @ v


def whole_masks(
    rows: int, heads: int, length: int, sources: int, probability: float, seed: int
) -> tuple[Tensor, float]:
    """The masks of all blocks as one matrix."""
    masks = DropoutMasks(probability, seed)
    kept = torch.zeros(rows, heads, length, length * sources, dtype=torch.float64)
    for row in range(rows):
        for start in range(0, length, module.BLOCK):
            end = min(start + module.BLOCK, length)
            kept[row, :, start:end, : end * sources] = masks.draw(
                torch.empty(heads, end - start, end * sources, dtype=torch.float64)
            )
    return kept, masks.scale


@pytest.mark.parametrize("sources", [1, 2])
def test_attention_and_its_gradients_are_the_formulas_with_the_same_masks(
    monkeypatch: pytest.MonkeyPatch, sources: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    torch.manual_seed(0)
    q = torch.randn(4, 10, 3, 6, dtype=torch.float64).transpose(1, 2).requires_grad_()
    k, v = (torch.randn(4, 3, 10 * sources, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    visible = torch.ones(10, 10, dtype=torch.bool).tril().repeat_interleave(sources, 1)
    torch.manual_seed(11)
    ours = dropout_attention(q, k, v, 0.3, sources)
    torch.manual_seed(11)
    kept, scale = whole_masks(4, 3, 10, sources, 0.3, seed=int(torch.randint(2**62, ())))
    gradient = torch.randn_like(ours)
    found = torch.autograd.grad(ours, (q, k, v), gradient)
    theirs = formula(q, k, v, visible, kept, scale)
    torch.testing.assert_close(ours, theirs)
    for ours_, theirs_ in zip(found, torch.autograd.grad(theirs, (q, k, v), gradient), strict=True):
        torch.testing.assert_close(ours_, theirs_)


@pytest.mark.parametrize(("channels", "across"), [(2, False), (2, True), (3, True)])
def test_with_hardly_any_dropout_training_is_evaluation(channels: int, across: bool) -> None:
    torch.manual_seed(1)
    block = CausalAttention(16, 4, dropout=1e-9, across=across)
    x = torch.randn(2, channels, 150, 16)
    torch.testing.assert_close(block.train()(x, x), block.eval()(x, x), atol=2e-6, rtol=1e-5)


@pytest.mark.commands
def test_dropped_attention_is_right_in_the_mean() -> None:
    torch.manual_seed(2)
    block = CausalAttention(8, 2, dropout=0.4)
    x = torch.randn(1, 1, 6, 8)
    mean = block.train()(x.expand(4000, -1, -1, -1), x.expand(4000, -1, -1, -1)).detach().mean(0, keepdim=True)
    torch.testing.assert_close(mean, block.eval()(x, x).detach(), atol=0.03, rtol=0)


def test_bf16_attention_is_near_fp32() -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, 4, 40, 16) for _ in range(3))
    torch.manual_seed(4)
    exact = dropout_attention(q, k, v, 0.1)
    torch.manual_seed(4)
    half = dropout_attention(*(x.bfloat16() for x in (q, k, v)), 0.1)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)
