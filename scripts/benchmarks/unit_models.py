"""Unit language models beside fairseq's transformer_lm of the same size, and packed beside padded, in this environment.

Both sides have random weights. Where the feed-forward blocks of ours have three matrices, fairseq's have two that are
1.5 times as wide, so that both models have 34 million parameters, or 4.5 million (small).
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, in_turns
from benchmarks.sides import Settings, Side

ROUNDS = 3
LENGTH = 300
UTTERANCES = 1000
# Units in an utterance: words of a few, sentences of some dozens, as the likelihood tests have them.
SHORTEST, LONGEST = 5, 60
UNITS = 500
# The laptop's recipe, configs/unit_lm_small.yaml.
RECIPE = [
    *[
        "--max-tokens",
        "1024",
        "--update-freq",
        "4",
        "--sample-break-mode",
        "eos",
        "--clip-norm",
        "1.0",
        "--seed",
        "1",
        "--log-format",
        "none",
    ],
    *["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--weight-decay", "0.05", "--lr", "0.001"],
    *["--lr-scheduler", "cosine", "--warmup-updates", "500", "--max-update", "20000", "--dropout", "0.1"],
]
UNIT_LM = ["--task", "unit_language_modeling", "--criterion", "unit_lm_criterion", "--arch", "unit_lm_small"]
# The same number of parameters; --tokens-per-sample is how long an utterance may be.
TRANSFORMER_LM = [
    *["--task", "language_modeling", "--criterion", "cross_entropy", "--arch", "transformer_lm"],
    *["--decoder-embed-dim", "256", "--decoder-ffn-embed-dim", "1536", "--decoder-layers", "4"],
    *["--decoder-attention-heads", "4", "--tokens-per-sample", "2048"],
]


def sample(settings: Settings) -> Iterator[Comparison]:
    """Sampling 300 units, batch 1, beside fairseq's transformer_lm and its generator; eager and compiled."""
    with _side("fairseq", settings, work="unit-sample", model="transformer_lm_base", length=LENGTH) as fairseq:
        for name, compiled in (("sample-units", False), ("sample-units-compiled", True)):
            work = {"work": "unit-sample", "model": "unit_lm_base", "length": LENGTH, "compile": compiled}
            with _side("ours", settings, **work) as own:
                rates = in_turns(lambda: _rate(fairseq), lambda own=own: _rate(own), settings.rounds or ROUNDS)
            yield Comparison(name, *rates, "units/s", more_is_better=True)


def score(settings: Settings) -> Iterator[Comparison]:
    """Scoring 1,000 utterances of mixed length, beside one at a time: by fairseq's transformer_lm, and by ours."""
    draw = random.Random(1)
    lines = [[draw.randrange(UNITS) for _ in range(draw.randint(SHORTEST, LONGEST))] for _ in range(UTTERANCES)]
    with _side("ours", settings, work="unit-score", model="unit_lm_small", lines=lines, alone=False) as own:
        for name, model in (("score-units", "transformer_lm_small"), ("score-units-alone", "unit_lm_small")):
            with _side(name, settings, work="unit-score", model=model, lines=lines, alone=True) as one_by_one:
                rates = in_turns(
                    lambda side=one_by_one: _rate(side), lambda: _rate(own), settings.rounds or 2, warm_up=1
                )
            yield Comparison(name, *rates, "units/s", more_is_better=True)


def train(settings: Settings) -> list[Comparison]:
    """Training on 16,384 units in utterances of 20 to 400, beside fairseq's transformer_lm, with the memory of both.

    Both are fairseq's trainer as fairseq-train runs it, over the same folder of binarized data, with the criterion and
    the batches of each side: up to 1,024 positions, four of them an update, as in configs/unit_lm_small.yaml.
    """
    with tempfile.TemporaryDirectory() as temporary:
        data = _binarized(Path(temporary))
        with (
            _side("fairseq", settings, work="train", epoch=True, options=[data, *RECIPE, *TRANSFORMER_LM]) as other,
            _side("ours", settings, work="train", epoch=True, options=[data, *RECIPE, *UNIT_LM]) as own,
        ):
            return _train("train-units", settings, other, own)


def _train(name: str, settings: Settings, baseline: Side, ours: Side) -> list[Comparison]:
    """Units a second; the peak of each process; and what of it came after model and data were loaded."""
    peaks: dict[str, list[float]] = {"baseline": [], "ours": []}

    def rate(who: str) -> float:
        measured = (ours if who == "ours" else baseline).round()
        peaks[who].append(measured["memory"])
        return measured["units"] / measured["seconds"]

    rates = in_turns(lambda: rate("baseline"), lambda: rate("ours"), settings.rounds or ROUNDS, warm_up=1)
    before = baseline.about["memory"], ours.about["memory"]
    memory = max(peaks["baseline"]), max(peaks["ours"])
    return [
        Comparison(name, *rates, "units/s", more_is_better=True),
        Comparison(f"{name}-memory", [memory[0]], [memory[1]], "GB"),
        Comparison(f"{name}-memory-steps", [memory[0] - before[0]], [memory[1] - before[1]], "GB"),
    ]


def _binarized(folder: Path) -> str:
    """Utterances of random units, 16,384 together, as fairseq-preprocess writes them."""
    draw = random.Random(3)
    lines = [" ".join(str(draw.randrange(UNITS)) for _ in range(length)) for length in _lengths(16384)]
    (folder / "units").write_text("\n".join(lines) + "\n", encoding="ascii")
    (folder / "dict.txt").write_text("".join(f"{unit} 1\n" for unit in range(UNITS)), encoding="ascii")
    command = [sys.executable, "-c", "from fairseq_cli.preprocess import cli_main; cli_main()", "--only-source"]
    command += ["--srcdict", str(folder / "dict.txt"), "--trainpref", str(folder / "units")]
    subprocess.run([*command, "--destdir", str(folder / "data")], check=True, capture_output=True)
    return str(folder / "data")


def _lengths(units: int) -> list[int]:
    """Utterances of so many units together, not sorted by length."""
    draw = random.Random(2)
    lengths: list[int] = []
    while sum(lengths) < units:
        lengths.append(draw.randint(20, 400))
    return lengths


def _side(name: str, settings: Settings, **work: Any) -> Side:
    common = {"device": settings.device, "threads": settings.threads, "dtype": "float32", "units": UNITS}
    return Side(name, sys.executable, {**common, **work, "imports": ["speechdlm_ext.plugin"]})


def _rate(side: Side) -> float:
    measured = side.round()
    return measured["units"] / measured["seconds"]
