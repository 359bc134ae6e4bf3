"""Tensorboard's files in the folder of each run."""

from __future__ import annotations

import os
from typing import Any

from speechdlm_ext.compat.repair import Repair, replace


def _write_where_each_run_wants(module: Any) -> None:
    wrapper, writers = module.TensorboardProgressBarWrapper, module._tensorboard_writers
    original = wrapper._writer
    folder_now = ""

    @replace(wrapper, "_writer")
    def _writer(self: Any, key: str) -> Any:
        nonlocal folder_now
        # Each job of a multirun works in a folder of its own, which relative paths are meant in.
        self.tensorboard_logdir = os.path.abspath(self.tensorboard_logdir)
        if self.tensorboard_logdir != folder_now:
            module._close_writers()
            writers.clear()
            folder_now = self.tensorboard_logdir
        return original(self, key)


REPAIRS = [
    Repair(
        name="tensorboard-multirun",
        package="fairseq",
        fault="FileNotFoundError: … events.out.tfevents…, or one job's curves in the other's folder "
        "(fairseq-hydra-train --multirun with common.tensorboard_logdir)",
        changes={"fairseq.logging.progress_bar": _write_where_each_run_wants},
    ),
]
