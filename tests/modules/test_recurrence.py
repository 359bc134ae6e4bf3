"""Packed recurrence: stretches of time that hold every place once, and both ways of running them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.modules.packing import Packing
from speechdlm_ext.modules.recurrence import SLACK, _packed_sequence, run_packed, stretches


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.sampled_from([0.0, SLACK, 0.5]))
def test_stretches_hold_every_place_once_and_little_padding(lengths: list[int], slack: float) -> None:
    lengths.sort(reverse=True)
    seen = [0] * len(lengths)
    before = 0
    for start, end, rows in stretches(lengths, slack):
        assert start == before < end and rows == sum(length > start for length in lengths)
        inside = [min(end, length) - start for length in lengths[:rows]]
        assert rows * (end - start) - sum(inside) <= slack * rows * (end - start)
        seen[:rows] = [n + more for n, more in zip(seen[:rows], inside, strict=True)]
        before = end
    assert seen == lengths


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_both_ways_are_each_sequence_alone(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    lstm = torch.nn.LSTM(3, 5, 2)
    x = torch.randn(sum(lengths), 3)
    packing = Packing(lengths, x.device)
    alone = torch.cat([lstm(row.unsqueeze(1))[0].squeeze(1) for row in x.split(lengths)])
    sequence, place = _packed_sequence(x, packing)
    assert torch.allclose(run_packed(lstm, x, packing), alone, atol=1e-5)
    assert torch.allclose(lstm(sequence)[0].data[place], alone, atol=1e-5)


def test_gradients_are_those_of_the_packed_sequence() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 5, 2).double()
    lengths = [7, 1, 12, 7, 3, 30]
    x = torch.randn(sum(lengths), 3, dtype=torch.float64, requires_grad=True)
    packing, weight = Packing(lengths, x.device), torch.randn(sum(lengths), 5, dtype=torch.float64)
    found = torch.autograd.grad((run_packed(lstm, x, packing) * weight).sum(), [x, *lstm.parameters()])
    sequence, place = _packed_sequence(x, packing)
    wanted = torch.autograd.grad((lstm(sequence)[0].data[place] * weight).sum(), [x, *lstm.parameters()])
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_says_the_same() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 5, 2)
    lengths = [7, 1, 12, 7, 3]
    x = torch.randn(sum(lengths), 3)
    wanted = run_packed(lstm, x, Packing(lengths, x.device))
    found = run_packed(lstm.cuda(), x.cuda(), Packing(lengths, torch.device("cuda")))
    assert torch.allclose(found.cpu(), wanted, atol=1e-4)
