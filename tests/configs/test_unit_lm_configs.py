"""The configurations of unit language models: the published recipes, number by number, and AMELA's grid."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import criterions, tasks
from fairseq.models import build_model
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental import compose, initialize_config_dir
from omegaconf import OmegaConf

import speechdlm_ext  # noqa: F401 - registers
from speechdlm_ext.evaluation.training_runs import read_runs
from tests.helpers.binarized import write_corpus
from tests.helpers.processes import Command

NAMES = ("unit_lm_dpslm", "unit_lm_small", "unit_lstm")


@pytest.fixture(scope="module")
def composed(checkout: Path) -> dict[str, Any]:
    """Each configuration as fairseq-hydra-train starts with it."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init

    made = {}
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(config_dir=str(checkout / "configs")):
        patch.setenv("SPEECHDLM_USER_DIR", str(checkout / "speechdlm_ext"))
        for name in NAMES:
            hydra_init(name)
            cfg = compose(name, overrides=["task.data=data-bin"])
            add_defaults(cfg)
            made[name] = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds_its_model_and_stops_early(composed: dict[str, Any], name: str, tmp_path: Path) -> None:
    cfg = composed[name]
    cfg.task.data, cfg.task.units = str(write_corpus(tmp_path / "data", [[3, 0, 1]])), 500
    task = tasks.setup_task(cfg.task)
    with torch.device("meta"):
        model = build_model(cfg.model, task)
    criterions.build_criterion(cfg.criterion, task)
    parameters = sum(p.numel() for p in model.parameters())
    if name == "unit_lm_dpslm":
        assert parameters == 202_378_240
    assert cfg.checkpoint.patience == 10 and not cfg.dataset.disable_validation
    assert cfg.checkpoint.best_checkpoint_metric == "nll_loss" and not cfg.checkpoint.no_save


def test_the_published_recipe(composed: dict[str, Any]) -> None:
    cfg = composed["unit_lm_dpslm"]
    assert cfg.dataset.max_tokens * cfg.optimization.update_freq[0] == 98_304 == 12 * 8 * cfg.task.tokens_per_sample
    optimizer = FairseqAdam(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.optimizer_config["betas"] == (0.9, 0.999)
    assert (cfg.optimizer.weight_decay, cfg.optimizer.adam_eps, cfg.optimization.clip_norm) == (0.05, 1e-8, 1.0)
    assert cfg.common.bf16 and cfg.task.sample_break_mode == "random" and cfg.optimization.max_update == 10_000
    schedule = CosineLRSchedule(cfg.lr_scheduler, optimizer)
    for update, expected in ((0, 1e-7), (1_000, 2.5e-4), (2_000, 5e-4), (6_000, 2.55e-4), (9_999, 1e-5)):
        assert schedule.step_update(update) == pytest.approx(expected, rel=1e-3)


TINY = {"128,256": "4,8", "256,512": "6", "2,3": "2", "0.1,0.2": "0.2"}
ALL = {"128,256": "4,8", "256,512": "6,7", "2,3": "1,2", "0.1,0.2": "0.0,0.2"}


@pytest.mark.commands
@pytest.mark.parametrize("sizes", [TINY, pytest.param(ALL, marks=pytest.mark.long)], ids=["2", "16"])
def test_a_grid_in_one_command_ends_in_its_table(
    sizes: dict[str, str], checkout: Path, run_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is the one that the configuration names, with tiny sizes: two of its grid of 16, or all."""
    text = (checkout / "configs" / "unit_lstm.yaml").read_text()
    lines = re.search(r"#   (fairseq-hydra-train --multirun.*?)\n(?!#  )", text, re.S)
    assert lines is not None
    words = shlex.split(re.sub(r"\\\n# +", "", lines[1]))
    grid = {word.split("=")[0]: word.split("=")[1].split(",") for word in words if "," in word}
    assert sorted(map(sorted, grid.values())) == [["0.1", "0.2"], ["128", "256"], ["2", "3"], ["256", "512"]]
    assert len(list(itertools.product(*grid.values()))) == 16
    lines_of_units = [[3, 0, 1, 4, 4, 5, 1][: 2 + i % 6] for i in range(12)]
    data = write_corpus(tmp_path / "data", lines_of_units)
    for ending in ("bin", "idx"):
        (data / f"valid.{ending}").write_bytes((data / f"train.{ending}").read_bytes())
    tiny = {**sizes, "$PWD/data-bin": str(data), "configs": str(checkout / "configs")}
    words = [next((word.replace(old, new) for old, new in tiny.items() if old in word), word) for word in words]
    monkeypatch.setenv("SPEECHDLM_USER_DIR", str(checkout / "speechdlm_ext"))
    monkeypatch.chdir(tmp_path)
    words += ["optimization.max_epoch=30", "optimization.lr=[0.0]", "checkpoint.patience=1", "dataset.num_workers=0"]
    output = Command([*words, "common.cpu=true"], tmp_path / "output").wait()
    table = (tmp_path / "runs" / "results.md").read_text()
    assert output.endswith(f"{table}written to {tmp_path / 'runs' / 'results.md'}\n")
    runs = read_runs(tmp_path / "runs")
    values = [value.split(",") for value in sizes.values()]
    names = {f"lstm_h{h}_e{e}_l{layers}_d{d}" for e, h, layers, d in itertools.product(*values)}
    assert {run.name for run in runs} == names and len(runs) == len(names) == (16 if sizes is ALL else 2)
    assert [run.best for run in runs] == sorted(run.best for run in runs)
    for run in runs:  # nothing was learnt, so that the second of 30 epochs, which is as good, stopped each run
        assert run.epoch == run.updates == 2 and run.metric == "nll_loss"
        assert run.figures["bits_per_unit"] > 0 and str(run.options["model.dropout"]) in run.name
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    differing = [name for name, value in zip(grid, values, strict=True) if len(value) > 1]
    assert sorted(head[1 : head.index("parameters")]) == sorted(differing) and "nll_loss" in head
    assert [row[0] for row in rows] == [run.name for run in runs]
    assert rows[0][head.index("nll_loss")] == f"{runs[0].best:.4f}"
    if sizes is ALL:
        return
    # A sweep that ends in an error has the table of what was trained, and a fault of the table spoils no sweep.
    (tmp_path / "runs" / "results.md").unlink()
    broken = [word.replace("=4,8", "=12,0") for word in words]
    failed = Command([*broken, "common.cpu=true"], tmp_path / "failed")
    failed.processes[0].join(120)
    assert failed.processes[0].exitcode and not failed.outputs[0].read_text().endswith("results.md\n")
    written = (tmp_path / "runs" / "results.md").read_text().splitlines()
    assert len(written) == 2 + 4 and "lstm_h6_e0_l2_d0.2 |" in written[-1] and "no checkpoint" in written[-1]
    done = run_command(["python", checkout / "scripts" / "tabulate_runs.py", tmp_path / "runs"])
    assert done.stdout.splitlines()[:6] == written
    missing = run_command(["python", checkout / "scripts" / "tabulate_runs.py", data], check=False)
    assert missing.returncode == 2 and "no run in it" in missing.stderr
