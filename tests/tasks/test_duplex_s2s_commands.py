"""Duplex models through fairseq's own commands, on tones that are answered by words."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.data.duplex_cuts import read_cuts, read_sound
from speechdlm_ext.hub.duplex import DuplexS2SModel
from tests.helpers.duplex import write_config, write_conversations
from tests.helpers.processes import Command
from tests.helpers.training import weights_in

pytestmark = pytest.mark.commands

TASK = shlex.split(
    "--task duplex_s2s_task --arch duplex_s2s --criterion duplex_criterion --text-overflow turn --cpu --num-workers 0 "
    "--log-format json --no-epoch-checkpoints --seed 1"
)


def _words(folder: Path, run: str, *more: str) -> list[Any]:
    config = ["--model-config", folder / "model.json", "--save-dir", folder / run]
    return ["fairseq-train", folder, *config, *TASK, *more]


@pytest.mark.long
def test_a_trained_model_knows_when_to_speak(tmp_path: Path, run_loaded: Any, checkout: Path) -> None:
    data = tmp_path / "data"
    write_config(data)
    write_conversations(data, "train", 12)
    write_conversations(data, "valid", 3, codes=False)  # encoded as they are read
    options = "--optimizer adam --lr 0.01 --max-tokens 240 --max-update 150 --clip-norm 1 --validate-interval 50"
    user_dir = ["--user-dir", str(checkout / "speechdlm_ext")]
    done = run_loaded(_words(data, "../run", *user_dir, *shlex.split(options)), env={"OMP_NUM_THREADS": "1"})
    logged = json.loads(re.findall(r"\| train \| (\{.*\})", done.stdout + done.stderr)[-1])
    # BOS, EOS and what all words have; which word it is takes longer than a test may.
    assert float(logged["train_text_accuracy"]) > 60 and float(logged["train_text_loss"]) < 0.5
    # It knows where its tokenizer, language model and codec are, though they are not beside it.
    model = DuplexS2SModel.from_pretrained(tmp_path / "run" / "checkpoint_last.pt")
    waves = torch.stack([read_sound(cut.source, 16000) for cut in read_cuts(data / "train.jsonl")[:3]])
    said = model.offline_inference(waves, torch.full((3,), waves.size(1)))
    assert said["tokens_text"].size(0) == 3 and said["tokens_audio"].size(2) == 4


def test_two_processes_make_the_update_of_one(tmp_path: Path, checkout: Path) -> None:
    """Rows are of different lengths, so that the processes have different numbers of frames."""
    write_config(tmp_path)
    path = write_conversations(tmp_path, "train", 4)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:2]:
        row |= {"offset": 0.0, "duration": 1.3, "codec": " ".join(row["codec"].split()[:65])}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_conversations(tmp_path, "valid", 1)
    once = shlex.split("--optimizer sgd --lr 0.1 --max-update 1 --disable-validation --clip-norm 0")
    user_dir = ["--user-dir", str(checkout / "speechdlm_ext")]
    two = _words(tmp_path, "two", *user_dir, *once, "--batch-size", "2", "--ddp-backend", "legacy_ddp")
    apart = Command(two, tmp_path, ranks=2)
    together = Command(_words(tmp_path, "one", *user_dir, *once, "--batch-size", "4"), tmp_path)
    apart.wait()
    together.wait()
    first, second = weights_in(tmp_path / "two"), weights_in(tmp_path / "one")
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.allclose(weight, second[name], atol=2e-6), name
