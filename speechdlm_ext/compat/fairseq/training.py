"""Training: what is checked before the first update, where a run ends, and tasks that see an update as a whole."""

from __future__ import annotations

import logging
from typing import Any

from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.fairseq.saving import raise_in_all_processes
from speechdlm_ext.compat.repair import Repair, replace

logger = logging.getLogger(__name__)


def _refuse_fp16_on_cpu(module: Any) -> None:
    original = module.Trainer.__init__

    @replace(module.Trainer, "__init__")
    def __init__(self: Any, cfg: Any, *args: Any, **options: Any) -> None:
        common = getattr(cfg, "common", cfg)
        no_gpu = getattr(common, "cpu", False) or not module.torch.cuda.is_available()
        if no_gpu and getattr(common, "fp16", False) and not getattr(common, "tpu", False):
            raise InputError("--fp16 trains on a GPU only: on a CPU use --bf16, or drop --fp16")
        original(self, cfg, *args, **options)


def _show_whole_updates(module: Any) -> None:
    original = module.Trainer.train_step

    @replace(module.Trainer, "train_step")
    def train_step(self: Any, samples: Any, *args: Any, **options: Any) -> Any:
        if hasattr(self.task, "begin_update"):
            samples = self.task.begin_update(samples)
        return original(self, samples, *args, **options)


def _check_checkpoints(module: Any) -> None:
    """Let a task see what it has put into a checkpoint, and refuse it: fairseq's trainer does not show it."""
    original, reading = module.Trainer.load_checkpoint, module.checkpoint_utils

    @replace(module.Trainer, "load_checkpoint")
    def load_checkpoint(self: Any, *args: Any, **options: Any) -> Any:
        if not hasattr(self.task, "check_state"):
            return original(self, *args, **options)
        read, reason = reading.load_checkpoint_to_cpu, None

        def checked(*names: Any, **how: Any) -> Any:  # in the first process, which hands the state to the others
            nonlocal reason
            state = read(*names, **how)
            try:
                self.task.check_state(state.get("task_state") or {})
            except InputError as error:
                reason = str(error)
            return state

        reading.load_checkpoint_to_cpu = checked
        try:
            found = original(self, *args, **options)
        except Exception:
            if reason is not None:
                raise InputError(reason) from None
            raise
        finally:
            reading.load_checkpoint_to_cpu = read
        raise_in_all_processes(reason)
        return found


def _check_first_epoch(module: Any) -> None:
    original = module.train
    checked: list[Any] = []  # the trainer of this run

    @replace(module, "train")
    def train(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
        done, last = trainer.get_num_updates(), cfg.optimization.max_update
        if 0 < last <= done:
            logger.info(f"Stopping training due to num_updates: {done} >= max_update: {last}; it had ended before")
            return [None], True
        if not any(trainer is one for one in checked):
            checked[:] = [trainer]
            _check_metric(module, cfg, trainer)
        return original(cfg, trainer, task, epoch_itr)


def _check_metric(module: Any, cfg: Any, trainer: Any) -> None:
    """Refuse a --best-checkpoint-metric that validation does not log, by validating one batch ("loss" always is)."""
    metric = cfg.checkpoint.best_checkpoint_metric
    if metric == "loss" or cfg.dataset.disable_validation:
        return
    subset = cfg.dataset.valid_subset.split(",")[0]
    dummy_batch = trainer._dummy_batch
    with module.torch.random.fork_rng(), module.metrics.aggregate(new_root=True) as logged:
        batches = trainer.get_valid_iterator(subset).next_epoch_itr(shuffle=False, set_dataset_epoch=False)
        trainer.valid_step(next(iter(batches)))
    trainer._dummy_batch = dummy_batch
    names = sorted({*logged.get_smoothed_values(), "num_updates"} - {"_"})
    if metric not in names and not hasattr(trainer.task, "post_validate"):
        raise InputError(f"--best-checkpoint-metric {metric}: validation logs {', '.join(names)}")


REPAIRS = [
    Repair(
        name="fp16-on-cpu",
        package="fairseq",
        fault="AssertionError: Torch not compiled with CUDA enabled (--fp16 --cpu)",
        changes={"fairseq.trainer": _refuse_fp16_on_cpu},
    ),
    Repair(
        name="whole-updates",
        package="fairseq",
        fault="a task sees the batches of an update one by one, so that means over all of it cannot be had "
        "(--update-freq, several processes); tasks with a method begin_update are shown them together",
        changes={"fairseq.trainer": _show_whole_updates},
    ),
    Repair(
        name="checked-checkpoints",
        package="fairseq",
        fault="training goes on from a checkpoint of another vocabulary of the same size; tasks with a method "
        "check_state are shown what they have put into it",
        changes={"fairseq.trainer": _check_checkpoints},
    ),
    Repair(
        name="first-and-last-update",
        package="fairseq",
        fault="KeyError after the first epoch for a misspelt --best-checkpoint-metric; a run that has made its "
        "--max-update updates makes one more each time that it is started again",
        changes={"fairseq_cli.train": _check_first_epoch},
    ),
]
