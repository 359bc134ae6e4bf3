"""What both sides work on: made-up dialogues, binarized by fairseq-preprocess, and random weights of the base model."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

CHANNELS = ("unitA", "unitB")
UNITS = 500
# --arch speech_dlm with the options of the published recipe.
BASE_MODEL = [
    *["--arch", "speech_dlm", "--decoder-layers", "6", "--decoder-cross-layers", "4"],
    *["--decoder-embed-dim", "512", "--decoder-ffn-embed-dim", "2048", "--decoder-attention-heads", "8"],
    *["--share-decoder-input-output-embed", "--dropout", "0.1", "--attention-dropout", "0.1"],
]
RECIPE = [
    *["--task", "speech_dlm_task", "--channels", ",".join(CHANNELS), "--criterion", "speech_dlm_criterion"],
    *["--next-unit-prediction", "False", "--edge-unit-prediction", "True"],
    *["--duration-prediction", "True", "--delayed-duration-target", "True"],
    *["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0", "--lr", "0.0005"],
    *["--lr-scheduler", "inverse_sqrt", "--warmup-init-lr", "1e-07", "--warmup-updates", "20000"],
    *["--sample-break-mode", "none", "--seed", "1", "--log-format", "none"],
]


def dialogue(frames: int, seed: int) -> dict[str, str]:
    """Units of every channel: runs of two frames on average, as HuBERT's are."""
    draw = random.Random(seed)
    channels = {}
    for channel in CHANNELS:
        units = [draw.randrange(UNITS)]
        while len(units) < frames:
            units.append(units[-1] if draw.random() < 0.5 else draw.randrange(UNITS))
        channels[channel] = " ".join(str(unit) for unit in units)
    return channels


def binarized(folder: Path, lines: int, frames: int) -> Path:
    """A folder of binarized dialogues, named as the public code wants it."""
    text, data = folder / "text", folder / "data"
    text.mkdir()
    made = [dialogue(frames, seed) for seed in range(lines)]
    for channel in CHANNELS:
        (text / f"train.{channel}").write_text("".join(line[channel] + "\n" for line in made), encoding="ascii")
    counts = "".join(f"{unit} 1\n" for unit in range(UNITS))
    (text / "dict.txt").write_text(counts, encoding="ascii")
    for channel in CHANNELS:
        command = [sys.executable, "-c", "from fairseq_cli.preprocess import cli_main; cli_main()"]
        command += ["--source-lang", channel, "--only-source", "--srcdict", str(text / "dict.txt")]
        command += ["--trainpref", str(text / "train"), "--destdir", str(data)]
        subprocess.run(command, check=True, capture_output=True)
        for kind in ("bin", "idx"):
            (data / f"train.{channel}-None.{channel}.{kind}").rename(data / f"train.{channel}.{kind}")
    return data


def random_weights(file: Path, data: Path, tokens_per_sample: int) -> Path:
    """Weights as the base model begins with, for both sides to load."""
    code = (
        "import sys, torch, speechdlm_ext.plugin\n"
        "from fairseq import options, tasks\n"
        "sys.argv = ['fairseq-train', *sys.argv[2:]]; file = sys.argv.pop()\n"
        "args = options.parse_args_and_arch(options.get_training_parser())\n"
        "torch.manual_seed(1)\n"
        "task = tasks.setup_task(args)\n"
        "torch.save(task.build_model(args).state_dict(), file)\n"
    )
    options = [str(data), *RECIPE, *BASE_MODEL, "--tokens-per-sample", str(tokens_per_sample), "--cpu"]
    subprocess.run([sys.executable, "-c", code, "", *options, str(file)], check=True, capture_output=True)
    return file
