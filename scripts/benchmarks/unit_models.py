"""Unit language models beside fairseq's transformer_lm of the same size, and packed beside padded, in this environment.

Both sides have random weights. Where the feed-forward blocks of ours have three matrices, fairseq's have two that are
1.5 times as wide, so that both models have 34 million parameters, or 4.5 million (small).
"""

from __future__ import annotations

import random
import sys
from typing import Any

from benchmarks.comparison import Comparison, in_turns
from benchmarks.processor import has_bf16
from benchmarks.sides import Settings, Side

ROUNDS = 3
LENGTH = 1000
UTTERANCES = 1000
# Units in an utterance: words of a few, sentences of some dozens, as the likelihood tests have them.
SHORTEST, LONGEST = 5, 60
UNITS = 500
MAX_TOKENS = 2048


def sample(settings: Settings) -> list[Comparison]:
    """Sampling 1,000 units, batch 1, beside fairseq's transformer_lm and its generator in fp32; in fp32 and bf16."""
    settings.check()
    dtypes = ["float32", "bfloat16"] if settings.bf16 or settings.device == "cuda" or has_bf16() else ["float32"]
    comparisons = []
    with _side("fairseq", settings, work="unit-sample", model="transformer_lm_base", length=LENGTH) as fairseq:
        for dtype in dtypes:
            with _side("ours", settings, work="unit-sample", model="unit_lm_base", length=LENGTH, dtype=dtype) as own:
                rates = in_turns(
                    lambda: _rate(fairseq), lambda own=own: _rate(own), settings.rounds or ROUNDS, warm_up=1
                )
            name = "sample-units" if dtype == "float32" else "sample-units-bf16"
            comparisons.append(Comparison(name, *rates, "units/s", more_is_better=True))
    return comparisons


def score(settings: Settings) -> list[Comparison]:
    """Scoring 1,000 utterances of mixed length, beside one at a time: by fairseq's transformer_lm, and by ours."""
    settings.check()
    draw = random.Random(1)
    lines = [[draw.randrange(UNITS) for _ in range(draw.randint(SHORTEST, LONGEST))] for _ in range(UTTERANCES)]
    comparisons = []
    with _side("ours", settings, work="unit-score", model="unit_lm_small", lines=lines, alone=False) as own:
        for name, model in (("score-units", "transformer_lm_small"), ("score-units-alone", "unit_lm_small")):
            with _side(name, settings, work="unit-score", model=model, lines=lines, alone=True) as one_by_one:
                rates = in_turns(
                    lambda side=one_by_one: _rate(side), lambda: _rate(own), settings.rounds or 2, warm_up=1
                )
            comparisons.append(Comparison(name, *rates, "units/s", more_is_better=True))
    return comparisons


def train(settings: Settings) -> list[Comparison]:
    """Training on 8,192 units in utterances of 20 to 400, beside fairseq's transformer_lm, with its memory.

    Both have fairseq's batches: utterances of like length, up to 2,048 units with padding.
    """
    batches: list[list[int]] = []
    for length in sorted(_lengths()):
        if not batches or length * (len(batches[-1]) + 1) > MAX_TOKENS:
            batches.append([])
        batches[-1].append(length)
    return _train("train-units", settings, "transformer_lm_small", "unit_lm_small", batches)


def train_lstm(settings: Settings) -> list[Comparison]:
    """Training the LSTM on 8,192 units in utterances of 20 to 400 in one batch, packed beside padded."""
    return _train("train-lstm", settings, "unit_lstm-padded", "unit_lstm", [_lengths()])


def _train(name: str, settings: Settings, baseline: str, ours: str, batches: list[list[int]]) -> list[Comparison]:
    settings.check()
    peaks: dict[str, list[float]] = {"baseline": [], "ours": []}
    with (
        _side("the baseline", settings, work="unit-train", model=baseline, batches=batches) as other,
        _side("ours", settings, work="unit-train", model=ours, batches=batches) as own,
    ):

        def rate(who: str) -> float:
            measured = (own if who == "ours" else other).round()
            peaks[who].append(measured["memory"])
            return measured["units"] / measured["seconds"]

        rates = in_turns(lambda: rate("baseline"), lambda: rate("ours"), settings.rounds or ROUNDS, warm_up=1)
    memory = [max(peaks["baseline"])], [max(peaks["ours"])]
    return [Comparison(name, *rates, "units/s", more_is_better=True), Comparison(f"{name}-memory", *memory, "GB")]


def _lengths() -> list[int]:
    """Utterances of 8,192 units together, not sorted by length."""
    draw = random.Random(2)
    lengths: list[int] = []
    while sum(lengths) < 8192:
        lengths.append(draw.randint(20, 400))
    return lengths


def _side(name: str, settings: Settings, **work: Any) -> Side:
    common = {"device": settings.device, "threads": settings.threads, "dtype": "float32", "units": UNITS}
    return Side(name, sys.executable, {**common, **work, "imports": ["speechdlm_ext", "fairseq"]})


def _rate(side: Side) -> float:
    measured = side.round()
    return measured["units"] / measured["seconds"]
