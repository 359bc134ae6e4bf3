"""Novograd beside NeMo's: parameters, momenta and second moments of five steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.optim.novograd import Novograd

CASES = ("quartznet", "defaults", "matchboxnet", "amsgrad", "grad_averaging", "luc")


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_the_reference(data: Path, case: str) -> None:
    folder = data / "reference" / "nemo"
    reference = np.load(folder / "novograd.npz")
    settings = json.loads((folder / "novograd.json").read_text())[case]
    params = [torch.nn.Parameter(torch.from_numpy(reference[f"init_{i}"])) for i in range(4)]
    optimizer = Novograd(params, **settings)
    for step in range(5):
        if step == 3:  # continued from what a checkpoint holds
            state = optimizer.state_dict()
            optimizer = Novograd(params, **settings)
            optimizer.load_state_dict(state)
        for i, param in enumerate(params):
            missing = step == 1 and i == 2  # this one had no gradient then
            param.grad = None if missing else torch.tensor(reference[f"grad_{i}"][step])
        optimizer.step()
        for i, param in enumerate(params):
            found = (param.data, optimizer.state[param]["exp_avg"], optimizer.state[param]["exp_avg_sq"])
            for name, value in zip(("param", "m", "v"), found, strict=True):
                expected = reference[f"{case}_{name}_{i}"][step]
                np.testing.assert_allclose(value.numpy(), expected, rtol=2e-6, atol=2e-7, err_msg=f"{name} {step} {i}")


def test_half_precision_parameters_have_a_state_in_full_precision() -> None:
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = Novograd([param], lr=0.5, betas=(0.0, 0.0))
    param.grad = torch.tensor([3.0, 0.0, 4.0], dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[param]["exp_avg"].dtype == torch.float32
    torch.testing.assert_close(param.data.float(), torch.tensor([0.7, 1.0, 0.6]), atol=5e-3, rtol=0)
