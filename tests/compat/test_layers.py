"""Which parameters fairseq's trainer says are shared."""

from __future__ import annotations

from torch import nn


def test_shared_weights_are_found_and_absent_biases_are_not() -> None:
    from fairseq.trainer import _catalog_shared_params

    model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "abc"})
    assert _catalog_shared_params(model) == []
    model["c"].weight = model["a"].weight
    assert _catalog_shared_params(nn.Sequential(model, nn.Linear(2, 2))) == [["0.a.weight", "0.c.weight"]]
