"""Learning rates beside NeMo's, through fairseq's own way to build a schedule."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.optim import FairseqOptimizer, lr_scheduler
from omegaconf import OmegaConf

import speechdlm_ext  # noqa: F401 - registers
from speechdlm_ext.errors import InputError
from speechdlm_ext.optim import schedules

NAMES = {"warmup_steps": "warmup_updates", "constant_steps": "constant_updates", "hold_steps": "hold_updates",
         "max_steps": "max_update", "d_model": "noam_dim"}  # fmt: skip
CONFIGS = {
    "cosine": ("cosine_annealing", schedules.CosineAnnealingConfig),
    "poly": ("polynomial_hold", schedules.PolynomialHoldConfig),
    "noam": ("noam_annealing", schedules.NoamConfig),
}


def build(kind: str, lr: float, **options: Any) -> Any:
    name, config = CONFIGS[kind]
    given = {NAMES.get(key, key): value for key, value in options.items()}
    cfg = OmegaConf.create({**vars(config()), "max_update": 0, **given, "lr": [lr], "_name": name})
    optimizer = FairseqOptimizer(Namespace())
    optimizer._optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    return lr_scheduler.build_lr_scheduler(cfg, optimizer)


@pytest.mark.parametrize(
    "case",
    ["cosine", "cosine_min", "cosine_warmup", "cosine_warmup_ratio", "cosine_constant", "poly_hold", "poly_hold_steps",
     "noam"],
)  # fmt: skip
def test_rates_equal_the_reference(data: Path, case: str) -> None:
    reference = json.loads((data / "reference" / "nemo" / "schedules.json").read_text())[case]
    schedule = build(case.split("_")[0], reference["base_lr"], **reference["args"])
    rates = [schedule.optimizer.get_lr()]  # that of the first update
    for step in range(1, len(reference["lr"])):
        schedule.step_update(step)
        rates.append(schedule.optimizer.get_lr())
    assert rates == pytest.approx(reference["lr"], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "--max-update"),
        ({"max_steps": 9, "min_lr": 0.1}, "--min-lr"),
        ({"max_steps": 9, "warmup_steps": 2, "warmup_ratio": 0.1}, "--warmup-ratio"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        build("cosine", 0.01, **options)
