"""Small outputs of the public SpeechDLM code (fairseq-fixed 0.12.3.1), run with nothing of this project.

``PYTHONPATH=<fairseq-fixed>:<site-packages> python make.py <scratch folder>``; README.md beside it describes the files.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.models.speech_dlm import SpeechDLM

HERE = Path(__file__).resolve().parent
np.compat = SimpleNamespace(long=np.int64)  # type: ignore[attr-defined]  # as in numpy 1, for the public code
UNITS, BLOCK, CHANNELS = 20, 64, ("unitA", "unitB")
SIZES = (
    "--decoder-layers 3 --decoder-cross-layers 2 --decoder-attention-heads 4 --decoder-embed-dim 16 "
    "--decoder-input-dim 16 --decoder-output-dim 16 --decoder-ffn-embed-dim 32"
)
TRAIN = (
    "--task speech_dlm_task --channels unitA,unitB --next-unit-prediction False --edge-unit-prediction True "
    "--duration-prediction True --delayed-duration-target True --criterion speech_dlm_criterion --arch speech_dlm "
    f"--share-decoder-input-output-embed --dropout 0.1 {SIZES} --optimizer adam --clip-norm 1 "
    f"--lr 0.01 --max-tokens 256 --tokens-per-sample {BLOCK} --sample-break-mode none --no-epoch-checkpoints --seed 1 "
    "--num-workers 0 --cpu --disable-validation --no-save-optimizer-state --log-interval 20"
)
VARIANTS = {"A": ("--max-update 60",), "C": ("--max-update 30", "--main-and-cross-weights", "0.5,0.5")}


def run(command: str, *more: str) -> None:
    program, *options = command.split()
    code = f"from fairseq_cli.{program} import cli_main; cli_main()"
    subprocess.run([sys.executable, "-c", code, *options, *more], check=True, stdout=subprocess.DEVNULL)


def write_units(folder: Path) -> None:
    """Runs of 1 to 9 equal units; both channels of a line equally long."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in (("train", 24), ("valid", 5)):
        lengths = [rng.randint(60, 150) for _ in range(lines)]
        for channel in CHANNELS:
            rows = []
            for length in lengths:
                row: list[int] = []
                while len(row) < length:
                    row += [min(int(rng.expovariate(0.2)), UNITS - 1)] * rng.randint(1, 9)
                rows.append(" ".join(map(str, row[:length])))
            (folder / f"{split}.{channel}").write_text("\n".join(rows) + "\n")


def binarize(raw: Path, folder: Path) -> None:
    for channel in CHANNELS:
        options = f"preprocess --source-lang {channel} --only-source --trainpref {raw}/train --validpref {raw}/valid"
        more = ["--srcdict", str(folder / "dict.unitA.txt")] if channel == "unitB" else []
        run(f"{options} --destdir {folder}", *more)
    for path in folder.glob("*-None.*"):
        path.rename(folder / path.name.replace(f"{path.name.split('.')[1]}.", "", 1))
    (folder / "preprocess.log").unlink()


def numbers(output: Any) -> Any:
    if isinstance(output, dict):
        return {key: numbers(value) for key, value in output.items()}
    return output.tolist() if hasattr(output, "tolist") else output


def cut(item: dict[str, Any], target: dict[str, torch.Tensor], length: int) -> dict[str, Any]:
    """The first frames of a block; its last run ends there."""
    out: dict[str, Any] = {"id": item["id"], "target_next": None}
    out["source"] = OrderedDict((c, item["source"][c][:length]) for c in CHANNELS)
    out |= {f"target_{key}": OrderedDict() for key in ("edge", "duration", "edge_indices")}
    for c in CHANNELS:
        edges, counts = torch.unique_consecutive(target[c][:length], return_counts=True)
        out["target_edge"][c], out["target_duration"][c] = edges, counts
        out["target_edge_indices"][c] = counts.cumsum(0) - counts
    return out


@torch.no_grad()
def write_outputs(folder: Path, data: Path) -> None:
    torch.set_num_threads(1)
    path = str(folder / "model.pt")
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(data)})
    model, criterion = models[0].eval(), task.build_criterion(cfg.criterion)
    task.load_dataset("valid")
    blocks = task.dataset("valid")
    targets = [{c: blocks.datasets[c][i]["target"] for c in CHANNELS} for i in range(3)]
    for name, lengths in (("full", (BLOCK, BLOCK)), ("padded", (BLOCK, 40, 16))):
        sample = blocks.collater([cut(blocks[i], targets[i], length) for i, length in enumerate(lengths)])
        out, extra = model(**sample["net_input"])
        arrays = {f"src_{c}": sample["net_input"]["src_tokens"][c] for c in CHANNELS}
        arrays["src_lengths"] = sample["net_input"]["src_lengths"]
        for c in CHANNELS:
            for key in ("edge", "duration", "edge_indices"):
                arrays[f"target_{key}_{c}"] = sample["target"][key][c]
            for predicted, pair in out[c].items():
                arrays[f"pred_token_{c}_{predicted}"] = pair["pred_token"]
                arrays[f"pred_duration_{c}_{predicted}"] = pair["pred_duration"]
        for i, states in enumerate(extra[0]["inner_states"] if isinstance(extra, list) else extra["inner_states"]):
            arrays[f"inner_{i}"] = torch.stack(list(states.values()) if isinstance(states, dict) else list(states))
        np.savez_compressed(folder / f"batch_{name}.npz", **{key: value.numpy() for key, value in arrays.items()})
        loss, size, logs = criterion(model, sample)
        written = {"loss": float(loss), "sample_size": size, "logging_output": numbers(logs)}
        (folder / f"criterion_{name}.json").write_text(json.dumps(written, indent=1))
    per_batch, summed = [], {}
    for i in range(len(blocks)):
        loss, size, logs = criterion(model, blocks.collater([blocks[i]]))
        per_batch.append([float(loss), size])
        for key, value in logs.items():
            summed[key] = summed.get(key, 0.0) + float(value)
    one = {"n_blocks": len(blocks), "per_batch_loss_and_sample_size": per_batch, "summed_logging_output": summed}
    (folder / "criterion_valid.json").write_text(json.dumps({"blocks_per_batch_1": one}, indent=1))
    lines = {c: (HERE / "raw" / f"valid.{c}").read_text().splitlines() for c in CHANNELS}
    prompts = [{c: " ".join(lines[c][i].split()[: 8 + 4 * i]) for c in CHANNELS} for i in range(3)]
    hub = SpeechDLM.from_pretrained(str(folder), "model.pt", str(data))
    made: dict[str, Any] = {"prompts": prompts}
    kept = ("tokens", "score", "positional_scores")
    for beam in (1, 3):
        options = {"beam": beam, "sampling": False, "max_len_a": 0, "max_len_b": 60}
        hypotheses = [hub.generate(hub.encode(prompt), **options) for prompt in prompts]
        made[f"beam{beam}"] = [
            {
                "out": hub.decode(group[0]["tokens"]),
                "all_hypos": [{key: numbers(one[key]) for key in kept} for one in group],
            }
            for group in hypotheses
        ]
    (folder / "generate.json").write_text(json.dumps(made))


def main(scratch: Path) -> None:
    write_units(HERE / "raw")
    shutil.rmtree(HERE / "bin", ignore_errors=True)
    binarize(HERE / "raw", HERE / "bin")
    for variant, options in VARIANTS.items():
        folder = HERE / variant
        folder.mkdir(exist_ok=True)
        words = " ".join(options).split()
        run(f"train {HERE / 'bin'} --save-dir {scratch / variant} {TRAIN}", *words)
        state = torch.load(scratch / variant / "checkpoint_last.pt", weights_only=False)
        kept = {key: value for key, value in state.items() if key not in ("last_optimizer_state", "task_state")}
        kept["cfg"]["task"]["data"] = "data-bin"
        torch.save(kept, folder / "model.pt")
        for channel in CHANNELS:
            shutil.copy(HERE / "bin" / f"dict.{channel}.txt", folder)
        write_outputs(folder, HERE / "bin")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
