"""SpeechDLM beside the public code: training steps, and dialogues continued by ``sample()``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, in_turns
from benchmarks.environments import public_code
from benchmarks.material import BASE_MODEL, CHANNELS, RECIPE, binarized, dialogue, random_weights
from benchmarks.sides import Settings, Side, ours

FRAMES, PROMPT, WINDOW = 200, 10, 1024


def train(settings: Settings) -> list[Comparison]:
    """Training steps, 2 x 1024 frames x 2 channels in fp32 on a CPU, 1 x 6144 x 2 in fp16 and bf16 on a GPU."""
    if settings.device == "cpu":
        return _train("train", settings, [], 2, 1024)
    half = [(kind, [f"--{kind}", "--checkpoint-activations"]) for kind in ("fp16", "bf16")]
    return [row for kind, options in half for row in _train(f"train-{kind}", settings, options, 1, 6144)]


def _train(name: str, settings: Settings, more: list[str], rows: int, frames: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = binarized(folder, lines=16, frames=2 * frames)
        weights = random_weights(folder / "weights.pt", data, frames)
        options = [
            str(data),
            *RECIPE,
            *BASE_MODEL,
            "--tokens-per-sample",
            str(frames),
            "--batch-size",
            str(rows),
        ]
        work = {"work": "train", "weights": str(weights), "options": [*options, *more], **settings.common()}
        with public_code(work) as public, ours(work) as own:
            last: dict[str, dict[str, float]] = {}

            def step(side: Side) -> float:
                last[side.name] = side.round()
                return rows * frames * len(CHANNELS) / last[side.name]["seconds"]

            # The operations were counted over a first step: that was the warm-up.
            rates = in_turns(lambda: step(public), lambda: step(own), settings.rounds or 5, warm_up=0)
            sides = [(side.about, last[side.name]) for side in (public, own)]
        achieved = [[about["flops"] / measured["seconds"] / 1e12] for about, measured in sides]
        memory = [[measured["memory"]] for _, measured in sides]
    return [
        Comparison(name, *rates, "units/s", more_is_better=True),
        Comparison(f"{name}-memory", *memory, "GB"),
        Comparison(f"{name}-flops", *achieved, f"TFLOP/s of {own.about['peak']:.3g}", more_is_better=True),
    ]


def score(settings: Settings) -> list[Comparison]:
    """Validation steps: the losses of 4 x 1024 frames x 2 channels in fp32, without gradients."""
    rows, frames = 4, WINDOW
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = binarized(folder, lines=16, frames=2 * frames)
        weights = random_weights(folder / "weights.pt", data, frames)
        sizes = ["--tokens-per-sample", str(frames), "--batch-size", str(rows)]
        work = {"work": "score", "weights": str(weights), "options": [str(data), *RECIPE, *BASE_MODEL, *sizes]}
        with public_code(work | settings.common()) as public, ours(work | settings.common()) as own:
            units = rows * frames * len(CHANNELS)
            rates = in_turns(
                lambda: units / public.round()["seconds"], lambda: units / own.round()["seconds"], settings.rounds or 3
            )
    return [Comparison("score", *rates, "units/s", more_is_better=True)]


def sample(settings: Settings) -> Iterator[Comparison]:
    """200 frames by sampling, eager and compiled: beam 1, beam 5, batches of 4 (on a GPU of 16 and 64, too)."""
    kinds: list[tuple[str, int, int, dict[str, Any]]] = [
        ("sample-beam1", 1, 1, {}),
        ("sample-beam1-compiled", 1, 1, {"compile": True}),
        ("sample-beam5", 5, 1, {}),
        ("sample-beam5-compiled", 5, 1, {"compile": True}),
        ("sample-batch4", 1, 4, {}),
        ("sample-batch4-compiled", 1, 4, {"compile": True}),
    ]
    if settings.device == "cuda":
        kinds += [("sample-batch16", 1, 16, {}), ("sample-batch64", 1, 64, {})]
    for kind in kinds:
        yield _sample(settings, *kind)


def _sample(settings: Settings, name: str, beam: int, batch: int, more: dict[str, Any]) -> Comparison:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = binarized(folder, lines=8 * batch, frames=WINDOW)  # the public code drops batches that are not full
        weights = random_weights(folder / "weights.pt", data, WINDOW)
        # The public sample() takes as many prompts at once as --max-tokens allowed in training.
        sizes = ["--tokens-per-sample", str(WINDOW), "--max-tokens", str(WINDOW * batch)]
        asked = {"max_len_a": 0, "max_len_b": FRAMES, "sampling": True, "beam": beam}
        work = {"work": "sample", "options": [str(data), *RECIPE, *BASE_MODEL, *sizes], "weights": str(weights)}
        work |= {"prompts": [dialogue(PROMPT, 100 + i) for i in range(batch)], "dtype": "float32", **settings.common()}
        with (
            public_code({**work, "sample": asked, "folder": str(folder / "public")}) as public,
            ours({**work, "sample": asked | more, "folder": str(folder / "ours")}) as own,
        ):
            rates = in_turns(lambda: public.rate("frames"), lambda: own.rate("frames"), settings.rounds or 3)
    return Comparison(name, *rates, "frames/s", more_is_better=True)
