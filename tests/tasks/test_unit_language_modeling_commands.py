"""Unit language models through fairseq's own commands, on a source whose entropy is known."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.data.binarization import binarize
from tests.helpers.markov import UNITS, write_markov
from tests.helpers.processes import Command
from tests.helpers.training import weights_in
from tests.helpers.unit_checkpoints import dpslm_file

pytestmark = pytest.mark.commands

TASK = shlex.split(
    "--task unit_language_modeling --criterion unit_lm_criterion --cpu --num-workers 0 --log-format json"
)
TRAIN = shlex.split(
    "--arch unit_lm --decoder-layers 1 --decoder-embed-dim 96 --decoder-attention-heads 3 --decoder-ffn-embed-dim 64 "
    "--dropout 0 --optimizer adam --adam-betas (0.9,0.95) --lr 0.015 --lr-scheduler cosine --warmup-updates 20 "
    "--clip-norm 1 --max-tokens 1000 --max-update 850 --no-epoch-checkpoints --seed 1"
)


def figures(output: str, split: str = "valid") -> dict[str, float]:
    """The last figures that were logged of a split."""
    logged = json.loads(re.findall(rf"\| {split} \| (\{{.*\}})", output)[-1])
    return {name.removeprefix("valid_"): float(value) for name, value in logged.items()}


@pytest.fixture(scope="module")
def markov(tmp_path_factory: pytest.TempPathFactory, run_loaded: Any, checkout: Path) -> dict[str, Any]:
    """A model trained from nothing on utterances of the source, binarized by ``fairseq-preprocess``."""
    folder = tmp_path_factory.mktemp("markov")
    lengths = np.random.default_rng(0).integers(100, 129, 7000)
    source, valid = write_markov(folder / "raw", lengths, 60)
    prefixes = ["--trainpref", folder / "raw/train", "--validpref", folder / "raw/valid", "--destdir", folder / "bin"]
    Command(["fairseq-preprocess", "--only-source", *prefixes], folder / "preprocess").wait()
    words = ["fairseq-train", folder / "bin", "--user-dir", checkout / "speechdlm_ext", "--save-dir", folder / "run"]
    done = run_loaded([*words, *TASK, *TRAIN], env={"OMP_NUM_THREADS": "1"})
    return {"folder": folder, "output": done.stdout + done.stderr, "source": source, "valid": valid}


def command(markov: dict[str, Any], folder: Path, name: str, *options: Any) -> str:
    place = ["--path", markov["folder"] / "run" / "checkpoint_best.pt"]
    return Command([name, markov["folder"] / "bin", *place, *TASK[:2], *TASK[4:], *options], folder).wait()


def test_a_trained_model_comes_within_two_percent_of_the_entropy(markov: dict[str, Any]) -> None:
    expected = markov["source"].bits_per_unit(markov["valid"])
    assert expected == pytest.approx(markov["source"].entropy(), rel=0.02)
    found = figures(markov["output"])
    assert expected < found["bits_per_unit"] < 1.02 * expected
    assert "bits_per_second" not in found
    assert f"{UNITS} units, {UNITS + 1} rows" in markov["output"]


def test_validation_counts_every_unit_once_whatever_the_batches(markov: dict[str, Any], tmp_path: Path) -> None:
    """An utterance has more units than the smallest batch may."""
    places = sum(len(line) + 1 for line in markov["valid"])
    found = []
    for number, options in enumerate((["--max-tokens", "60"], ["--batch-size", "13"])):
        output = command(markov, tmp_path / str(number), "fairseq-validate", *options)
        found.append(figures(output))
        assert f"{places - len(markov['valid']):,} units in {len(markov['valid'])} utterances" in output
    names = ("loss", "nll_loss", "bits_per_unit", "accuracy")
    for other in found[1:]:
        assert [other[name] for name in names] == pytest.approx([found[0][name] for name in names], abs=1e-5)
    assert found[0]["loss"] == pytest.approx(figures(markov["output"])["loss"], abs=1e-5)


def test_eval_lm_agrees_with_the_criterion(markov: dict[str, Any], tmp_path: Path) -> None:
    expected = figures(command(markov, tmp_path / "validate", "fairseq-validate", "--max-tokens", "2000"))["nll_loss"]
    output = command(markov, tmp_path / "eval", "fairseq-eval-lm", "--gen-subset", "valid", "--max-tokens", "1500")
    (loss,) = re.findall(r"Loss \(base 2\): ([\d.]+)", output)
    assert float(loss) == pytest.approx(expected, abs=6e-5)  # it prints four digits


def write_timed(folder: Path) -> Path:
    """Deduplicated units with durations that follow from the unit, as ``binarize.py`` writes them."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for split, lines in (("train", 60), ("valid", 6)):
        rows = []
        for number in range(lines):
            units = np.cumsum(random.integers(1, 5, random.integers(5, 60))) % 12
            durations = 1 + units % 4
            durations[0] += 8 * (split == "valid")  # as long as none in training
            row = {"audio": f"{split}-{number}", "unitA": " ".join(map(str, units))}
            rows.append({**row, "unitA.durations": " ".join(map(str, durations))})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prefixes = {split: str(folder / f"{split}.jsonl") for split in ("train", "valid")}
    binarize(prefixes, folder / "bin", ["unitA", "unitA.durations"])
    return folder / "bin"


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_timed(tmp_path_factory.mktemp("timed") / "data")


RECIPE = shlex.split(
    "--arch unit_lm --decoder-layers 2 --decoder-embed-dim 32 --decoder-attention-heads 2 --decoder-ffn-embed-dim 48 "
    "--dropout 0.1 --durations --sample-break-mode random --tokens-per-sample 40 --optimizer adam "
    "--adam-betas (0.9,0.98) --lr 0.005 --lr-scheduler fixed --clip-norm 1 --max-tokens 200 --seed 3 "
    "--save-interval-updates 3 --keep-interval-updates 2 --no-epoch-checkpoints --duration-loss-weight 0.3"
)


@pytest.mark.long
def test_blocks_with_durations_killed_and_resumed_end_as_undisturbed(timed: Path, tmp_path: Path) -> None:
    """Over several epochs, each of which cuts its blocks elsewhere, and a durations stream in seconds."""

    def train(name: str, updates: int) -> Command:
        words = ["fairseq-train", timed, "--save-dir", tmp_path / name / "run", *TASK, *RECIPE]
        return Command([*words, "--max-update", str(updates)], tmp_path / name)

    def newest() -> int:
        return max((int(path.stem.split("_")[-1]) for path in (tmp_path / "killed/run").glob("*_*_*.pt")), default=0)

    killed = train("killed", 500)
    end = time.monotonic() + 300
    while newest() < 6 and killed.running and time.monotonic() < end:
        time.sleep(0.005)
    killed.kill()
    updates = newest() + 12
    output = train("killed", updates).wait()
    assert "Loaded checkpoint" in output
    undisturbed = figures(train("undisturbed", updates).wait())
    expected, found = weights_in(tmp_path / "undisturbed/run"), weights_in(tmp_path / "killed/run")
    assert expected.keys() == found.keys() and "decoder.output_duration.weight" in expected
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    logged = figures(output)
    names = ("loss", "nll_loss", "bits_per_unit", "bits_per_second", "duration_loss")
    assert [logged[name] for name in names] == [undisturbed[name] for name in names]
    # 50 frames per second, as nothing else was said: seconds are those of the units that are predicted
    rows = [json.loads(line) for line in timed.with_name("valid.jsonl").read_text().splitlines()]
    frames = [int(d) for row in rows for d in row["unitA.durations"].split()]
    per_second = len(frames) / (sum(frames) / 50)
    assert logged["bits_per_second"] == pytest.approx(logged["bits_per_unit"] * per_second, rel=1e-4)


def test_patience_survives_a_stop_and_a_published_form_can_be_the_start(timed: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 nothing improves: three validations after the first one are enough, stopped or not."""
    dpslm_file(tmp_path / "published.pt", units=12)
    sizes = "--arch unit_lm --decoder-layers 2 --decoder-embed-dim 16 --decoder-attention-heads 4 --decoder-kv-heads 2"
    still = f"{sizes} --decoder-head-dim 6 --decoder-ffn-embed-dim 24 --optimizer sgd --lr 0 --lr-scheduler fixed"
    words = ["fairseq-train", timed, "--save-dir", tmp_path / "run", *TASK, *shlex.split(still), "--patience", "3"]
    words += ["--max-tokens", "2000", "--no-epoch-checkpoints", "--finetune-from-model", tmp_path / "published.pt"]
    Command([*words, "--max-epoch", "2"], tmp_path / "one").wait()
    output = Command([*words, "--max-epoch", "50"], tmp_path / "two").wait()
    assert "early stop since valid performance hasn't improved for last 3 runs" in output
    assert figures(output, "train")["epoch"] == 4
    published = torch.load(tmp_path / "published.pt", weights_only=True)["model_state_dict"]
    found = weights_in(tmp_path / "run")
    assert all(torch.equal(found[f"decoder.{name}"], tensor) for name, tensor in published.items())


def shorten_durations(data: Path) -> None:
    """Binarize the durations again, with one less in the third line."""
    rows = [json.loads(line) for line in data.with_name("train.jsonl").read_text().splitlines()]
    rows[2]["unitA.durations"] = rows[2]["unitA.durations"].rsplit(" ", 1)[0]
    lines = "".join(row["unitA.durations"] + "\n" for row in rows)
    data.with_name("durations.unitX").write_text(lines)
    binarize({"train": str(data.with_name("durations"))}, data.with_name("other"), ["unitX"])
    for ending in ("bin", "idx"):
        other = data.with_name("other") / f"train.unitX.{ending}"
        (data / f"train.unitA.durations.{ending}").write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patience", "3", "--disable-validation"], "--patience 3 counts validations, which --disable-validation"),
        (["--units", "10"], "is outside the vocabulary, the codebook has 10 units (0 to 9)"),
        (["--channel", "unitB"], "no dict.unitB.txt in it, only channels unitA"),
        ([shorten_durations], "train.unitA.durations, line 3: "),
    ],
)
def test_contradictions_are_explained(timed: Path, tmp_path: Path, options: list[Any], message: str) -> None:
    data = timed
    if callable(options[0]):
        shutil.copytree(timed.parent, tmp_path / "copy")
        data = tmp_path / "copy" / timed.name
        options[0](data)
    given = [option for option in options if isinstance(option, str)]
    words = ["fairseq-train", data, "--save-dir", tmp_path / "run", *TASK, *RECIPE, "--max-update", "1", *given]
    command = Command(words, tmp_path)
    command.processes[0].join(600)
    last = command.outputs[0].read_text().splitlines()[-1]
    assert (
        command.processes[0].exitcode
        and last.startswith("speechdlm_ext.compat.errors.InputError: ")
        and message in last
    )
