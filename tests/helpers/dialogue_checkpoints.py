"""Toy checkpoints as fairseq-train writes them, with their dictionaries and a little binarized data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from tests.helpers.published import toy_dictionary, toy_model

CRITERION = {
    "_name": "speech_dlm_criterion",
    "sentence_avg": False,
    "main_and_cross_weights": "1,0",
    "general_unit_loss_weight": 1.0,
    "edge_unit_loss_weight": 1.0,
    "duration_loss_weight": 1.0,
}


def toy_lines(channels: int, lengths: list[int], seed: int = 5) -> list[torch.Tensor]:
    """Lines of random runs, ``(T, C)`` each, without ``</s>``."""
    random = torch.Generator().manual_seed(seed)
    lines = []
    for length in lengths:
        columns = []
        for _ in range(channels):
            repeats = torch.randint(1, 6, (length,), generator=random)
            columns.append(torch.randint(4, 24, (length,), generator=random).repeat_interleave(repeats)[:length])
        lines.append(torch.stack(columns, 1))
    return lines


def write_checkpoint(
    folder: Path,
    name: str = "model.pt",
    channels: int = 2,
    seed: int = 0,
    task: dict[str, Any] | None = None,
    criterion: dict[str, Any] | None = None,
    lines: list[torch.Tensor] | None = None,
    change: Callable[[dict[str, Any]], object] = lambda state: None,
    **options: Any,
) -> Path:
    """A checkpoint of a toy model, dict.<channel>.txt and, with ``lines``, a validation set; returns the folder.

    Args:
        task: options of the task to change; those that the model shares belong into ``options``.
        change: called with all that is in the checkpoint, before it is written.
        options: of the model.
    """
    model = toy_model(channels, seed, **options)
    dictionary = toy_dictionary(channels)
    model_options = {**vars(model.decoder.args), "_name": "speech_dlm", "tpu": False}
    of_the_task = {
        "_name": "speech_dlm_task",
        "data": "nowhere",
        "channels": ",".join(dictionary.channels),
        "next_unit_prediction": "True",
        "edge_unit_prediction": "True",
        "tpu": False,
        "seed": 1,
    }
    for shared in ("tokens_per_sample", "duration_prediction", "delayed_duration_target", "add_bos_token"):
        of_the_task[shared] = model_options[shared]
    cfg = {
        "_name": None,
        "common": {"_name": None, "seed": 1, "cpu": True},
        "task": {**of_the_task, **(task or {})},
        "model": model_options,
        "criterion": criterion or {**CRITERION, "main_and_cross_weights": model_options["main_and_cross_weights"]},
    }
    state = {
        "args": None,
        "cfg": cfg,
        "model": model.state_dict(),
        "criterion": {},
        "optimizer_history": [
            {"criterion_name": "C", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 7}
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 1.0},
        "last_optimizer_state": None,
    }
    change(state)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / name)
    for channel, symbols in zip(dictionary.channels, dictionary.dictionaries, strict=True):
        symbols.save(str(folder / f"dict.{channel}.txt"))
    for c, channel in enumerate(dictionary.channels if lines else []):
        builder = MMapIndexedDatasetBuilder(str(folder / f"valid.{channel}.bin"), dtype=np.int32)
        for line in lines or []:
            builder.add_item(torch.cat([line[:, c], torch.tensor([2])]))
        builder.finalize(str(folder / f"valid.{channel}.idx"))
    return folder
