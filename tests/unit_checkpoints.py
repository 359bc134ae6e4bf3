"""Checkpoints of toy unit language models as fairseq-train writes them, with dictionary and binarized utterances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

UNITS = 20


def utterances(lengths: list[int], seed: int = 5, units: int = UNITS) -> list[list[int]]:
    """Random units, none of them twice in a row."""
    random = np.random.default_rng(seed)
    made = []
    for length in lengths:
        line = [int(random.integers(units))] if length else []
        while len(line) < length:
            line.append((line[-1] + int(random.integers(1, units))) % units)
        made.append(line)
    return made


def write_corpus(folder: Path, lines: list[list[int]], split: str = "valid", channel: str = "unitA") -> None:
    """Binarized lines, with a dictionary in which units have other numbers than their own."""
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = Dictionary()
    for unit in reversed(range(UNITS)):
        dictionary.add_symbol(str(unit), n=unit + 1)
    dictionary.save(str(folder / f"dict.{channel}.txt"))
    builder = MMapIndexedDatasetBuilder(str(folder / f"{split}.{channel}.bin"), dtype=np.int32)
    for line in lines:
        rows = [dictionary.index(str(unit)) for unit in line]
        builder.add_item(torch.tensor([*rows, dictionary.eos()]))
    builder.finalize(str(folder / f"{split}.{channel}.idx"))


def write_unit_checkpoint(path: Path, model: Any, **task: Any) -> Path:
    """A checkpoint of a model of tests.unit_models; returns its path."""
    name = {"UnitLM": "unit_lm", "UnitLSTM": "unit_lstm"}[type(model).__name__]
    of_the_task = {
        "_name": "unit_language_modeling",
        "data": "nowhere",
        "durations": model.decoder.args.durations,
        "seed": 1,
        **task,
    }
    criterion = {"_name": "unit_lm_criterion", "sentence_avg": False}
    cfg = {
        "_name": None,
        "common": {"_name": None, "seed": 1, "cpu": True},
        "task": of_the_task,
        "model": {**vars(model.decoder.args), "_name": name},
        "criterion": {**criterion, "label_smoothing": 0.0, "duration_loss_weight": 0.1},
    }
    history = {"criterion_name": "C", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 7}
    state = {
        "args": None,
        "cfg": cfg,
        "model": model.state_dict(),
        "criterion": {},
        "optimizer_history": [history],
        "task_state": {"units": model.decoder.dictionary.units},
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 1.0},
        "last_optimizer_state": None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path
