"""Tasks that look at an update as a whole, before its batches come one by one."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from speechdlm_ext.compat.imports import after_import
from speechdlm_ext.compat.repair import Repair, always


def _show_whole_updates(module: ModuleType) -> None:
    original = module.Trainer.train_step

    @functools.wraps(original)
    def train_step(self: Any, samples: Any, *args: Any, **options: Any) -> Any:
        if hasattr(self.task, "begin_update"):
            samples = self.task.begin_update(samples)
        return original(self, samples, *args, **options)

    module.Trainer.train_step = train_step


REPAIRS = [
    Repair(
        name="whole-updates",
        package="fairseq",
        fault="a task sees the batches of an update one by one, so that means over all of it cannot be had "
        "(--update-freq, several processes); tasks with a method begin_update are shown them together",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.trainer", _show_whole_updates),
    ),
]
