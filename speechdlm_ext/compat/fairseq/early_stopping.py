"""Where training stops: early stopping that a run which is taken up again goes on with, and runs that had ended."""

from __future__ import annotations

import functools
import logging
import os
import sys
from types import ModuleType
from typing import Any

from speechdlm_ext.compat.imports import after_import
from speechdlm_ext.compat.refusal import refusal
from speechdlm_ext.compat.repair import Repair, always

logger = logging.getLogger(__name__)

KEY = "early_stopping"  # in the extra state of a checkpoint


def _counter() -> dict[str, Any]:
    """The attributes of fairseq's function that counts validations without progress: ``best`` and ``num_runs``."""
    return vars(getattr(sys.modules.get("fairseq_cli.train"), "should_stop_early", lambda: None))


def _keep_count(module: ModuleType) -> None:
    original = module.Trainer.save_checkpoint

    @functools.wraps(original)
    def save_checkpoint(self: Any, filename: str, extra_state: dict[str, Any]) -> Any:
        counter = _counter()
        if "num_runs" in counter:
            extra_state = {**extra_state, KEY: {name: counter[name] for name in ("best", "num_runs")}}
        return original(self, filename, extra_state)

    module.Trainer.save_checkpoint = save_checkpoint


def _go_on_counting(module: ModuleType) -> None:
    original = module.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Any:
        if cfg.patience > 0 and trainer.cfg.dataset.disable_validation:
            raise refusal(
                f"--patience {cfg.patience} counts validations, which --disable-validation leaves out: drop one of the "
                "two"
            )
        for name in ("best", "num_runs"):  # of another run in this process
            _counter().pop(name, None)
        last = os.path.join(cfg.save_dir, f"checkpoint_last{trainer.checkpoint_suffix or ''}.pt")
        begins = cfg.finetune_from_model is not None and not os.path.exists(last)
        extra_state, iterator = original(cfg, trainer, **options)
        if extra_state and not cfg.reset_meters and not begins:
            _counter().update(extra_state.get(KEY, {}))
        return extra_state, iterator

    module.load_checkpoint = load_checkpoint  # type: ignore[attr-defined]


def _apply() -> None:
    after_import("fairseq.trainer", _keep_count)
    after_import("fairseq.checkpoint_utils", _go_on_counting)


def _end_at_once(module: ModuleType) -> None:
    original = module.train

    @functools.wraps(original)
    def train(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
        done, wanted = trainer.get_num_updates(), cfg.optimization.max_update
        if 0 < wanted <= done:
            logger.info(f"Stopping training due to num_updates: {done} >= max_update: {wanted}; it had ended before")
            return [None], True
        return original(cfg, trainer, task, epoch_itr)

    module.train = train  # type: ignore[attr-defined]


REPAIRS = [
    Repair(
        name="ended-runs",
        package="fairseq",
        fault="a run that has made its --max-update updates makes one more each time that it is started again",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq_cli.train", _end_at_once),
    ),
    Repair(
        name="early-stopping",
        package="fairseq",
        fault="a run that is taken up again has forgotten how long it has not improved (--patience), and --patience "
        "with --disable-validation trains to the end without a word",
        versions="all",
        needed=always,
        apply=_apply,
    ),
]
