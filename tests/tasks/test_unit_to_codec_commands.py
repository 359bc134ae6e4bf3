"""A unit-to-codec model through fairseq's own commands, on a language whose sounds are known."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechdlm_ext.hub import UnitToCodec
from tests.helpers.processes import Command

pytestmark = pytest.mark.commands

TASK = shlex.split(
    "--task unit_to_codec_task --units 6 --codec-types 12 --criterion unit_to_codec_criterion --cpu --num-workers 0 "
    "--log-format json"
)
TRAIN = shlex.split(
    "--arch ellav_small --decoder-layers 2 --decoder-embed-dim 64 --decoder-attention-heads 2 "
    "--decoder-ffn-embed-dim 128 --optimizer adam --lr 0.005 --lr-scheduler cosine --warmup-updates 20 --clip-norm 1 "
    "--max-tokens 3000 --max-update 150 --no-epoch-checkpoints --seed 1"
)


def spoken(unit: int) -> list[int]:
    """What a unit sounds like: its own codec token, and that of its class."""
    return [unit, unit, 6 + unit % 2, unit]


def write_rows(path: Path, count: int, seed: int) -> None:
    """Utterances of units that last 5 frames, 100 ms, and so 4 codec tokens."""
    rng = np.random.default_rng(seed)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            units = [int(rng.integers(6))]
            while len(units) < 6:
                units += [unit for unit in [int(rng.integers(6))] if unit != units[-1]]
            row = {
                "audio": f"{path.stem}-{number}",
                "unitA": " ".join(map(str, units)),
                "unitA.durations": "5 5 5 5 5 5",
            }
            codec = " ".join(str(token) for unit in units for token in spoken(unit))
            file.write(json.dumps({**row, "codec": codec, "codec_rate": 40, "frame_rate": 50}) + "\n")


@pytest.mark.long
def test_a_trained_model_says_each_unit_as_it_learnt(tmp_path: Path, run_loaded: Any, checkout: Path) -> None:
    write_rows(tmp_path / "train.jsonl", 400, 1)
    write_rows(tmp_path / "valid.jsonl", 20, 2)
    words = ["fairseq-train", tmp_path, "--user-dir", checkout / "speechdlm_ext", "--save-dir", tmp_path / "run"]
    done = run_loaded([*words, *TASK, *TRAIN], env={"OMP_NUM_THREADS": "1"})
    logged = json.loads(re.findall(r"\| valid \| (\{.*\})", done.stdout + done.stderr)[-1])
    assert float(logged["valid_codec_accuracy"]) > 99 and float(logged["valid_eop_accuracy"]) > 99
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    place = ["--path", checkpoint, "--max-tokens", "3000", "--user-dir", checkout / "speechdlm_ext"]
    again = Command(["fairseq-validate", tmp_path, *place, *TASK], tmp_path / "validate").wait()
    assert f'"valid_loss": "{logged["valid_loss"]}"' in again
    codes, finished = UnitToCodec.from_pretrained(checkpoint).generate([["u3", "u0", "u4"], [5]], top_p=0.0)
    assert finished == [True, True]
    assert codes[0].tolist() == [*spoken(3), *spoken(0), *spoken(4)] and codes[1].tolist() == spoken(5)


def test_rows_that_do_not_fit_are_one_line(tmp_path: Path, run_loaded: Any, checkout: Path) -> None:
    write_rows(tmp_path / "valid.jsonl", 2, 2)
    for field, value, message in (
        ("codec", "1 2 3", r"line 1: 30 frames of units are 0.60 s, 3 codec tokens 0.07 s"),
        ("codec", " ".join(["12"] * 24), r"line 1: codec token 12, this model has 0 to 11"),
        ("unitA", "0 1 2 3 4 6", r"line 1: u6 is no unit of this model, which has 6"),
        ("codec_rate", 75, r"line 1: codec tokens at 75 Hz, 40 Hz are expected"),
    ):
        row = json.loads((tmp_path / "valid.jsonl").read_text().splitlines()[0])
        (tmp_path / "train.jsonl").write_text(json.dumps({**row, field: value}) + "\n")
        words = ["fairseq-train", tmp_path, "--user-dir", checkout / "speechdlm_ext", "--save-dir", tmp_path / "run"]
        done = run_loaded([*words, *TASK, *TRAIN], check=False)
        assert done.returncode == 2
        assert re.search(message, done.stderr), done.stderr[-500:]
        assert "Traceback" not in done.stderr
