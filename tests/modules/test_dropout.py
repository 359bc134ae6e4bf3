"""Dropout of a residual branch with cheap masks."""

from __future__ import annotations

import pytest
import torch

from speechdlm_ext.modules import dropout
from speechdlm_ext.modules.dropout import add_dropped


@pytest.mark.parametrize("kept_elements", [0, 2000])
def test_a_residual_branch_is_dropped_alike_in_both_directions(
    kept_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropout, "KEPT", kept_elements)
    x, branch = torch.randn(40, 50, requires_grad=True), torch.randn(40, 50, requires_grad=True)
    torch.manual_seed(5)
    out = add_dropped(x, branch, 0.25, training=True)
    out.backward(torch.full_like(x, 3.0))
    kept = branch.grad / 3
    assert torch.equal(x.grad, torch.full_like(x, 3.0))
    assert 0.6 < float(kept.ne(0).float().mean()) < 0.9
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 4 / 3))
    torch.testing.assert_close(out, x + branch * kept)
    torch.manual_seed(5)
    assert torch.equal(out, add_dropped(x, branch, 0.25, training=True))
    assert torch.equal(add_dropped(x, branch, 0.25, training=False), x + branch)
