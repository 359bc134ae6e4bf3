"""Checkpoints of toy unit language models as fairseq-train writes them, with dictionary and binarized utterances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder
from torch import Tensor, nn

from tests.helpers.unit_models import toy_unit_lm

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
    """A checkpoint of a model of tests.helpers.unit_models; returns its path."""
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


SHAPE = {"dim": 16, "n_layers": 2, "head_dim": 6, "hidden_dim": 24, "n_heads": 4, "n_kv_heads": 2, "dropout": 0.15}


def dpslm_file(path: Path, units: int = 20) -> dict[str, Any]:
    """A small checkpoint in the published state."""
    model = toy_unit_lm(units, decoder_attention_heads=4, decoder_kv_heads=2, decoder_head_dim=6)
    weights = {name.removeprefix("decoder."): tensor for name, tensor in model.state_dict().items()}
    args = {**SHAPE, "norm_eps": 1e-6, "vocab_size": units + 1, "rope_theta": 10000}
    state = {"model_args": args, "model_state_dict": weights}
    torch.save(state, path)
    return state


def amela_folder(folder: Path, units: int = 30, padding: bool = False, safe: bool = True) -> dict[str, Tensor]:
    """A small LSTM as AMELA saves it."""
    torch.manual_seed(1)
    folder.mkdir()
    rows = units + 1 + padding
    lstm, output = nn.LSTM(6, 10, 3), nn.Linear(10, rows)
    weights = {"embedding.weight": torch.randn(rows, 6)}
    weights.update({f"lstm.{name}": tensor.detach() * 3 for name, tensor in lstm.state_dict().items()})
    weights.update({f"output.{name}": tensor.detach() * 3 for name, tensor in output.state_dict().items()})
    config = {"model_type": "lstm", "vocab_size": rows, "sos_token_id": units, "dropout": 0.2}
    (folder / "config.json").write_text(json.dumps(config))
    if safe:
        safetensors.torch.save_file(weights, folder / "model.safetensors")
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return weights


def amela_likelihood(weights: dict[str, Tensor], units: list[int], sos: int) -> float:
    """log p of units given SOS by AMELA's own numbering; padding, where there is any, is no outcome."""
    lstm = nn.LSTM(6, 10, 3, batch_first=True)
    lstm.load_state_dict({name[5:]: tensor for name, tensor in weights.items() if name.startswith("lstm.")})
    with torch.no_grad():
        states, _ = lstm(weights["embedding.weight"][torch.tensor([[sos, *units[:-1]]])])
        logits = states[0] @ weights["output.weight"].t() + weights["output.bias"]
    lprobs = logits[:, : sos + 1].log_softmax(-1)
    return sum(float(lprobs[t, unit]) for t, unit in enumerate(units))
