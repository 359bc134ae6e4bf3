"""Early stopping that a run which is resumed goes on with."""

from __future__ import annotations

import os
import sys
from typing import Any

from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.repair import Repair, replace

KEY = "early_stopping"  # in the extra state of a checkpoint


def _counter() -> dict[str, Any]:
    """The attributes of fairseq's function that counts validations without progress: ``best`` and ``num_runs``."""
    return vars(getattr(sys.modules.get("fairseq_cli.train"), "should_stop_early", lambda: None))


def _keep_count(module: Any) -> None:
    original = module.Trainer.save_checkpoint

    @replace(module.Trainer, "save_checkpoint")
    def save_checkpoint(self: Any, filename: str, extra_state: dict[str, Any]) -> Any:
        counter = _counter()
        if "num_runs" in counter:
            extra_state = {**extra_state, KEY: {name: counter[name] for name in ("best", "num_runs")}}
        return original(self, filename, extra_state)


def _go_on_counting(module: Any) -> None:
    original = module.load_checkpoint

    @replace(module, "load_checkpoint")
    def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Any:
        if (cfg.patience or 0) > 0 and trainer.cfg.dataset.disable_validation:
            raise InputError(
                f"--patience {cfg.patience} counts validations, which --disable-validation skips: drop one of the two"
            )
        for name in ("best", "num_runs"):  # of another run in this process
            _counter().pop(name, None)
        last = os.path.join(cfg.save_dir, f"checkpoint_last{trainer.checkpoint_suffix or ''}.pt")
        begins = cfg.finetune_from_model is not None and not os.path.exists(last)
        extra_state, iterator = original(cfg, trainer, **options)
        if extra_state and not cfg.reset_meters and not begins:
            _counter().update(extra_state.get(KEY, {}))
        return extra_state, iterator


REPAIRS = [
    Repair(
        name="early-stopping",
        package="fairseq",
        fault="a resumed run has forgotten how long it has not improved (--patience), and --patience "
        "with --disable-validation trains to the end without a word",
        changes={"fairseq.trainer": _keep_count, "fairseq.checkpoint_utils": _go_on_counting},
    ),
]
