"""The SpeechDLM through fairseq's own commands, as the published documents give them."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.published_commands import PREPROCESS_A, PREPROCESS_B, RENAME, TRAIN, VALIDATE, words

pytestmark = pytest.mark.commands

# What takes the place of the published sizes. --fp16 is the only one that is skipped: it needs a GPU.
SMALL = shlex.split(
    "--decoder-layers 2 --decoder-cross-layers 1 --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 "
    "--decoder-attention-heads 2 --lr 0.005 --warmup-updates 5 --max-update 60 --max-tokens 200 "
    "--tokens-per-sample 100 --update-freq 1 --num-workers 0 --log-format json --cpu"
)


def write_units(folder: Path) -> None:
    """Lines of runs from a small Markov source, so that there is something to learn."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for split, lines in (("train", 30), ("valid", 4)):
        written: dict[str, list[str]] = {"A": [], "B": []}
        for _ in range(lines):
            length = int(random.integers(80, 160))
            for c in written:
                units: list[int] = []
                unit = int(random.integers(12))
                while len(units) < length:
                    units += [unit] * int(random.integers(1, 6))
                    unit = (unit + int(random.choice([1, 5], p=[0.8, 0.2]))) % 12
                written[c].append(" ".join(map(str, units[:length])) + "\n")
        for c, texts in written.items():
            (folder / f"{split}.unit{c}").write_text("".join(texts))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_command: Any, run_loaded: Any, checkout: Path) -> Path:
    """A folder with raw units, binarized data (as fairseq-preprocess names it), and a trained checkpoint."""
    folder = tmp_path_factory.mktemp("speech_dlm")
    write_units(folder / "raw")
    places = {"RAW_DATA_DIR": folder / "raw", "BIN_DATA_DIR": folder / "bin"}
    for published in (PREPROCESS_A, PREPROCESS_B):
        run_loaded(words(published, places, "--workers", 2))
    train(run_command, checkout, folder, "checkpoints")
    return folder


def train(run_command: Any, checkout: Path, folder: Path, save: str, *options: Any, check: bool = True) -> Any:
    places = {"BIN_DATA_DIR": folder / "bin", "CHECKPOINT_DIR": folder / save}
    published = words(TRAIN.replace("--fp16 ", ""), places, "--user-dir", checkout / "speechdlm_ext", *SMALL, *options)
    return run_command(published, env={"OMP_NUM_THREADS": "1"}, check=check)


def command(trained: Path, checkout: Path, name: str, *options: Any) -> list[Any]:
    user_dir = ["--user-dir", checkout / "speechdlm_ext", "--task", "speech_dlm_task", "--cpu"]
    return [name, trained / "bin", *user_dir, "--path", trained / "checkpoints/checkpoint_best.pt", *options]


def logged(output: str, key: str) -> list[float]:
    return [float(value) for value in re.findall(rf'"{re.escape(key)}": "([^"]+)"', output)]


def test_training_learns_and_curves_are_written(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "checkpoints" / "valid"))
    events.Reload()
    losses = [event.value for event in events.Scalars("edge_token_loss")]
    assert losses[-1] < math.log2(12) - 1  # far below knowing nothing; the source has about 0.7 bits per edge
    for pair in ("unitA-unitA", "unitB-unitB"):
        assert f"[{pair}]edge_token_loss" in events.Tags()["scalars"]


@pytest.mark.long
def test_validation_is_the_same_for_every_batch_size_number_of_workers_and_name_of_the_data(
    trained: Path, checkout: Path, run_command: Any, run_loaded: Any
) -> None:
    """As published, and with the data renamed as published; blocks are as long as in training, whatever fits in."""
    renamed = trained / "renamed"
    shutil.copytree(trained / "bin", renamed)
    run_command(["bash", "-c", f"set -e; BIN_DATA_DIR={renamed}\n{RENAME}"])
    assert not list(renamed.glob("*-None*")) and len(list(renamed.glob("*.unit?.idx"))) == 4
    figures = []
    for data, options in (("bin", []), ("renamed", ["--max-tokens", "100", "--num-workers", "2"])):
        places = {"BIN_DATA_DIR": trained / data, "CHECKPOINT_PATH": trained / "checkpoints/checkpoint_best.pt"}
        more = ["--user-dir", checkout / "speechdlm_ext", "--log-format", "json", *options]
        done = run_loaded(words(VALIDATE, places, *more))
        output = done.stdout + done.stderr
        keys = ("valid_loss", "valid_edge_token_loss", "valid_edge_duration_loss")
        figures.append({key: logged(output, key)[-1] for key in keys})
    assert figures[0] == pytest.approx(figures[1], abs=2e-3)


def test_generate_continues_prompts_cut_from_the_data(trained: Path, checkout: Path, run_loaded: Any) -> None:
    options = [
        "--gen-subset",
        "valid",
        "--prompt-frames",
        "20",
        "--max-len-b",
        "50",
        "--beam",
        "1",
        "--sampling",
        "--max-tokens",
        "400",
    ]
    done = run_loaded(command(trained, checkout, "fairseq-generate", *options))
    lines = dict(line.split("\t", 1) for line in done.stdout.splitlines() if re.match(r"[STHDP]-\d+\t", line))
    assert {f"{kind}-0" for kind in "STHDP"} <= lines.keys()
    prompt, continued = lines["S-0"].split(" | "), lines["H-0"].split("\t")[1].split(" | ")
    real = lines["T-0"].split(" | ")
    for channel in range(2):
        assert len(prompt[channel].split()) == 20 and len(continued[channel].split()) == 50
        assert continued[channel].startswith(prompt[channel]) and real[channel].startswith(prompt[channel])
    assert len(lines["P-0"].split()) == 51


def test_interactive_serves_lines_explains_bad_ones_and_reads_its_own_output(
    trained: Path, checkout: Path, run_loaded: Any, tmp_path: Path
) -> None:
    options = command(trained, checkout, "fairseq-interactive", "--max-len-b", "30", "--beam", "3")
    long = " ".join("7" * 31)
    lines = f"\ufeff1 1 2 2 | 3 3 3 4\n1 1 | 2\nnonsense\n5 5 5 | 6 6 <pad>\n7 7 8 | 9 9 9\n{long} | {long}\n"
    (tmp_path / "lines").write_bytes(lines.encode() + b"1 \xff | 1 1\n5 5 | 6 6\n")
    done = run_loaded([*options, "--input", str(tmp_path / "lines")])
    found = {line.split("\t")[0]: line.split("\t")[-1] for line in done.stdout.splitlines() if line.startswith("H-")}
    assert list(found) == ["H-0", "H-4", "H-7"]
    assert found["H-0"].startswith("1 1 2 2 ") and "| 3 3 3 4 " in found["H-0"]
    explained = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(explained) == 5 and "2 in unitA, 1 in unitB" in explained[0] and "unit <pad> of unitB" in explained[2]
    assert "the prompt has 31 frames" in explained[3] and "byte 0xff after 2 characters is not UTF-8" in explained[4]
    again = run_loaded(options[:-4] + ["--max-len-b", "40", "--beam", "1"], input=found["H-0"] + "\n")
    assert found["H-0"].split(" | ")[0] in again.stdout


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda data: (data / "dict.unitB.txt").unlink(), "dict.unitB.txt: no such file"),
        (lambda data: (data / "valid.unitB-None.unitB.idx").unlink(), "split valid of channel unitB is missing"),
        (lambda data: shorten(data / "train.unitB-None.unitB"), "line 1: "),
    ],
)
def test_broken_data_is_explained_in_one_line(
    trained: Path, checkout: Path, run_loaded: Any, tmp_path: Path, break_it: Any, message: str
) -> None:
    shutil.copytree(trained / "bin", tmp_path / "bin")
    break_it(tmp_path / "bin")
    done = train(run_loaded, checkout, tmp_path, "checkpoints", "--max-update", "1", check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-train: error: ") and message in last and "Traceback" not in done.stderr


def shorten(path: Path) -> None:
    """Binarize the channel again with a frame less in its first line."""
    import torch
    from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder

    data = MMapIndexedDataset(str(path))
    lines = [torch.tensor(data[i].tolist()) for i in range(len(data))]
    builder = MMapIndexedDatasetBuilder(f"{path}.new.bin", dtype=np.int32)
    for line in [lines[0][1:], *lines[1:]]:
        builder.add_item(line)
    builder.finalize(f"{path}.new.idx")
    for ending in ("bin", "idx"):
        Path(f"{path}.new.{ending}").replace(f"{path}.{ending}")


@pytest.mark.long
def test_hydra_trains_a_published_config_once_for_each_seed(
    trained: Path, checkout: Path, run_command: Any, tmp_path: Path
) -> None:
    import torch

    small = (
        "model.decoder_layers=2 model.decoder_cross_layers=1 model.decoder_embed_dim=32 model.decoder_ffn_embed_dim=64 "
        "task.tokens_per_sample=100 dataset.max_tokens=200 dataset.num_workers=0 optimization.max_update=2 "
        "optimization.update_freq=[2] common.fp16=false common.cpu=true hydra.sweep.dir=runs"
    )
    config = ["--config-dir", checkout / "configs", "--config-name", "speech_dlm_edge_delayed_duration"]
    run_command(
        [
            "fairseq-hydra-train",
            "--multirun",
            *config,
            f"task.data={trained / 'bin'}",
            *small.split(),
            "common.seed=1,2",
        ],
        cwd=tmp_path,
        env={"SPEECHDLM_USER_DIR": str(checkout / "speechdlm_ext")},
    )
    seeds, weights = [], []
    for job in ("0", "1"):
        last = torch.load(tmp_path / "runs" / job / "checkpoints" / "checkpoint_last.pt", weights_only=False)
        seeds.append(last["cfg"]["common"]["seed"])
        weights.append(last["model"]["decoder.layers.0.fc1.weight"])
        assert last["optimizer_history"][-1]["num_updates"] == 2
        assert list((tmp_path / "runs" / job / "tensorboard" / "train").iterdir())
    assert seeds == [1, 2] and not torch.equal(*weights)


def test_the_sampling_script_resumes_and_gives_the_same(
    trained: Path, checkout: Path, run_loaded: Any, tmp_path: Path
) -> None:
    rows = [{"audio": f"d{i}", "speaker": "kept", "unitA": "1 1 2 2 3 3", "unitB": "4 4 4 5 5 5"} for i in range(3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]) + f"{rows[2]}\n")
    arguments = [
        "--in-file",
        tmp_path / "in.jsonl",
        "--ckpt",
        trained / "checkpoints/checkpoint_best.pt",
        "--data",
        trained / "bin",
    ]
    options = [
        "--samples",
        "2",
        "--beam-size",
        "1",
        "--max-len-b",
        "30",
        "--prompt-frames",
        "4",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    script = ["python", checkout / "scripts/sample_speech_dlm.py", *arguments, *options]
    run_loaded([*script, "--out-file", tmp_path / "whole.jsonl"])
    whole = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [row["audio"] for row in whole] == [f"d{i}-s{k}" for i in range(3) for k in (1, 2)]
    assert [row["seed"] for row in whole] == [[123, i, k] for i in range(3) for k in range(2)] and {
        row["speaker"] for row in whole
    } == {"kept"}
    assert all(
        len(row[c].split()) == 30 and row[c].startswith(rows[0][c][:7]) for row in whole for c in ("unitA", "unitB")
    )
    refused = run_loaded([*script, "--out-file", tmp_path / "whole.jsonl"], check=False)
    assert refused.returncode == 2 and "is there already" in refused.stderr.splitlines()[-1]
    bad = run_loaded([*script, "--out-file", tmp_path / "x.jsonl", "--temperature", "0"], check=False)
    assert bad.returncode == 2 and bad.stderr.splitlines()[-1].endswith(
        "--temperature 0.0: a number above 0 is expected"
    )
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.long
def test_the_published_python_example(trained: Path, checkout: Path, run_command: Any) -> None:
    program = f"""
from fairseq.models.speech_dlm import SpeechDLM
speech_dlm = SpeechDLM.from_pretrained(
    model_name_or_path={str(trained / "checkpoints")!r}, checkpoint_file="checkpoint_best.pt",
    data_name_or_path={str(trained / "bin")!r})
speech_dlm.eval()
prompts = [{{"unitA": "7 7 8 8 9", "unitB": "1 1 1 2 2"}}]
units = speech_dlm.sample(prompts, max_len_a=0, max_len_b=50, sampling=True, beam=5)
print("RESULT", units)
"""
    done = run_command(["python", "-c", program])
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    (units,) = eval(line.removeprefix("RESULT "))
    assert {channel: len(text.split()) for channel, text in units.items()} == {"unitA": 50, "unitB": 50}
    assert units["unitA"].startswith("7 7 8 8 9 ")
