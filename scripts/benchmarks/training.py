"""Training: a step of the published recipe, through fairseq's trainer on both sides."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.comparison import Comparison, in_turns
from benchmarks.material import BASE_MODEL, CHANNELS, RECIPE, binarized, random_weights
from benchmarks.public_code import public_code
from benchmarks.sides import Settings, ours

ROUNDS = 5


def fp32(settings: Settings) -> list[Comparison]:
    """A training step of 2 x 1024 frames x 2 channels in fp32, with its memory."""
    return _measure("train-fp32", settings, [], [], 2, 1024)


def bf16(settings: Settings) -> list[Comparison]:
    """The same with --bf16, beside the public code in fp32."""
    return _measure("train-bf16", settings, [], ["--bf16"], 2, 1024)


def long_fp16(settings: Settings) -> list[Comparison]:
    """A training step of 1 x 6144 frames x 2 channels on a GPU, --fp16 and --checkpoint-activations on both sides."""
    half = ["--fp16", "--checkpoint-activations"]
    return _measure("train-long-fp16", settings, half, half, 1, 6144)


def long_bf16(settings: Settings) -> list[Comparison]:
    """The same with --bf16 on both sides."""
    half = ["--bf16", "--checkpoint-activations"]
    return _measure("train-long-bf16", settings, half, half, 1, 6144)


def _measure(
    name: str, settings: Settings, baseline: list[str], our: list[str], rows: int, frames: int
) -> list[Comparison]:
    settings.check()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = binarized(folder, lines=16, frames=2 * frames)
        weights = random_weights(folder / "weights.pt", data, frames)
        options = [str(data), *RECIPE, *BASE_MODEL, "--tokens-per-sample", str(frames), "--batch-size", str(rows)]
        common = {"work": "train", "weights": str(weights), "device": settings.device, "threads": settings.threads}
        peaks: dict[str, list[float]] = {"public": [], "ours": []}
        with (
            public_code({**common, "options": options + baseline}) as public,
            ours({**common, "options": options + our}) as own,
        ):

            def step(who: str) -> float:
                measured = (public if who == "public" else own).round()
                peaks[who].append(measured["memory"])
                return rows * frames * len(CHANNELS) / measured["seconds"]

            rates = in_turns(lambda: step("public"), lambda: step("ours"), settings.rounds or ROUNDS, warm_up=1)
    memory = [max(peaks["public"])], [max(peaks["ours"])]
    return [
        Comparison(name, *rates, "units/s", more_is_better=True),
        Comparison(f"{name}-memory", *memory, "GB"),
    ]
