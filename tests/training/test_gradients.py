"""Gradients of the loss against finite differences in fp64, along random directions through all weights."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.published import toy_batch, toy_criterion, toy_model


@pytest.mark.parametrize(
    ("targets", "delayed", "weights"),
    [
        (["next"], True, "1,0"),
        (["edge"], True, "1,0"),
        (["edge", "duration"], True, "1,0"),
        (["edge", "duration"], False, "1,0"),
        (["next", "edge", "duration"], True, "0.6,0.4"),
    ],
)
def test_gradients_are_the_slopes_of_the_loss(targets: list[str], delayed: bool, weights: str) -> None:
    model = toy_model(main_and_cross_weights=weights).double()
    criterion = toy_criterion(targets=targets, delayed=delayed, main_and_cross_weights=weights)
    sample = toy_batch([9, 6, 2])
    loss, _, _ = criterion(model, sample)
    loss.backward()
    assert loss.dtype == torch.float64
    trained = [p for p in model.parameters() if p.grad is not None]
    assert len(trained) > 40 or targets == ["next"]
    directions = torch.Generator().manual_seed(1)
    for _ in range(3):
        steps = [torch.randn(p.shape, generator=directions, dtype=torch.float64) for p in trained]
        slope = sum(float((p.grad * step).sum()) for p, step in zip(trained, steps, strict=True))
        losses = []
        for size in (1e-6, -1e-6):
            with torch.no_grad():
                for p, step in zip(trained, steps, strict=True):
                    p.add_(size * step)
                losses.append(float(criterion(model, sample)[0]))
                for p, step in zip(trained, steps, strict=True):
                    p.sub_(size * step)
        assert slope == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)
