"""The configuration of the acoustic model: the published recipe, number by number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fairseq import criterions, tasks
from fairseq.models import build_model
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental import compose, initialize_config_dir
from omegaconf import OmegaConf

from speechdlm_ext import plugin  # noqa: F401 - registers


@pytest.mark.commands
def test_the_published_recipe(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq.dataclass.initialize import add_defaults, hydra_init

    GlobalHydra.instance().clear()
    monkeypatch.setenv("SPEECHDLM_USER_DIR", str(checkout / "speechdlm_ext"))
    with initialize_config_dir(config_dir=str(checkout / "configs")):
        hydra_init("ellav")
        cfg = compose("ellav", overrides=["task.data=data"])
        add_defaults(cfg)
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    task = tasks.setup_task(cfg.task)
    with torch.device("meta"):
        model = build_model(cfg.model, task)
    criterions.build_criterion(cfg.criterion, task)
    assert sum(p.numel() for p in model.parameters()) == 210_777_592 and cfg.model.dropout == 0
    assert cfg.dataset.batch_size * cfg.optimization.update_freq[0] == 64
    assert (cfg.optimizer.weight_decay, cfg.optimizer.adam_eps, cfg.optimization.clip_norm) == (0.01, 1e-9, 1.0)
    assert cfg.common.bf16 and cfg.checkpoint.patience == 5 and cfg.optimization.max_update == 10_000
    schedule = CosineLRSchedule(cfg.lr_scheduler, FairseqAdam(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))]))
    for update, expected in ((0, 1e-7), (500, 2.5e-4), (1_000, 5e-4), (5_500, 2.55e-4), (9_999, 1e-5)):
        assert schedule.step_update(update) == pytest.approx(expected, rel=1e-3)
