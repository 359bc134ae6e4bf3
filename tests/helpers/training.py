"""A tiny corpus whose rows differ in length and in how many edges they have, and training on it in this process."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

Weights: TypeAlias = dict[str, torch.Tensor]

# Length of a line in frames and mean length of its runs: short lines have many edges, long ones few.
ROWS = ((9, 1), (12, 1), (30, 12), (40, 20))

MODEL = shlex.split(
    "--task speech_dlm_task --arch speech_dlm --criterion speech_dlm_criterion --decoder-layers 2 "
    "--decoder-cross-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2 "
    "--share-decoder-input-output-embed"
)

# Plain gradient descent without clipping shows the size of a gradient; Adam's first update would hide it.
UPDATE = shlex.split(
    "--sample-break-mode eos --tokens-per-sample 64 --dropout 0 --optimizer sgd --lr 0.1 --lr-scheduler fixed "
    "--clip-norm 0 --cpu --num-workers 0 --no-epoch-checkpoints --no-progress-bar --log-interval 1 --seed 3"
)


def write_rows(path: Path, rows: tuple[tuple[int, int], ...] = ROWS, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for channel in ("unitA", "unitB"):
        lines = []
        for length, run in rows:
            runs = random.integers(run, 2 * run, length) if run > 1 else np.ones(length, dtype=int)
            units = np.repeat(np.cumsum(random.integers(1, 9, length)) % 10, runs)[:length]
            lines.append(" ".join(map(str, units.tolist())) + "\n")
        Path(f"{path}.{channel}").write_text("".join(lines))


def train_here(data: Path, save_dir: Path, *options: str) -> None:
    """``fairseq-train`` of a dialogue model in this process."""
    words = [str(data), "--save-dir", str(save_dir), *MODEL, *UPDATE, *options]
    if "--fp16" in words:
        words.remove("--cpu")
    fairseq_train(words)


def fairseq_train(words: list[str]) -> None:
    """``fairseq-train`` in this process."""
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq_cli.train import main

    import speechdlm_ext.plugin  # noqa: F401 - registers

    parser = fairseq_options.get_training_parser()
    main(convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, words)))


def weights_in(folder: Path) -> Weights:
    from speechdlm_ext.compat.checkpoints import load_checkpoint

    weights: Weights = load_checkpoint(folder / "checkpoint_last.pt")["model"]
    return weights


def difference(found: Weights, expected: Weights, start: Weights) -> float:
    """The greatest distance between two updates of one tensor, relative to the update's length."""
    assert found.keys() == expected.keys()
    distances = []
    for name, tensor in expected.items():
        moved = float((tensor.double() - start[name].double()).norm())
        apart = float((found[name].double() - tensor.double()).norm())
        # Tensors that hardly move (a key's bias has no gradient) are held against the rounding of their own values.
        distances.append(apart / max(moved, 1e-3 * float(tensor.double().norm()), 1e-6))
    return max(distances)


EVERYTHING = shlex.split(
    "--next-unit-prediction True --general-unit-loss-weight 0.5 --delayed-duration-target False "
    "--main-and-cross-weights 0.7,0.3 --channel-weights 1,0.5 --sentence-avg"
)
