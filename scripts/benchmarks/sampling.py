"""Sampling: continuing dialogues by ``sample()`` on both sides, and far beyond the window by ours."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, in_turns
from benchmarks.material import BASE_MODEL, RECIPE, binarized, dialogue, random_weights
from benchmarks.processor import has_bf16
from benchmarks.public_code import public_code
from benchmarks.sides import Settings, Side, ours

ROUNDS = 3
FRAMES = 600
PROMPT = 10
WINDOW = 1024


def beam1(settings: Settings) -> list[Comparison]:
    """Sampling with beam 1, one prompt, to 600 frames; in fp32 and bf16 beside the public code's fp32."""
    return _measure("sample-beam1", settings, beam=1, batch=1)


def beam5(settings: Settings) -> list[Comparison]:
    """Sampling with beam 5, one prompt, to 600 frames."""
    return _measure("sample-beam5", settings, beam=5, batch=1)


def batch4(settings: Settings) -> list[Comparison]:
    """Sampling with beam 1, four prompts at once, to 600 frames."""
    return _measure("sample-batch4", settings, beam=1, batch=4)


def batch16(settings: Settings) -> list[Comparison]:
    """Sampling with beam 1, sixteen prompts at once, to 600 frames."""
    return _measure("sample-batch16", settings, beam=1, batch=16)


def batch64(settings: Settings) -> list[Comparison]:
    """Sampling with beam 1, sixty-four prompts at once, to 600 frames."""
    return _measure("sample-batch64", settings, beam=1, batch=64)


def _measure(name: str, settings: Settings, beam: int, batch: int) -> list[Comparison]:
    settings.check()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common = _common(folder, settings, batch)
        common["prompts"] = [dialogue(PROMPT, 100 + i) for i in range(batch)]
        common["sample"] = {"max_len_a": 0, "max_len_b": FRAMES, "sampling": True, "beam": beam}
        dtypes = ["float32", "bfloat16"] if settings.bf16 or settings.device == "cuda" or has_bf16() else ["float32"]
        comparisons = []
        with public_code({**common, "folder": str(folder / "public"), "dtype": "float32"}) as public:
            for dtype in dtypes:
                with ours({**common, "folder": str(folder / dtype), "dtype": dtype}) as own:
                    rates = in_turns(
                        lambda: _rate(public), lambda own=own: _rate(own), settings.rounds or ROUNDS, warm_up=1
                    )
                full_name = name if dtype == "float32" else f"{name}-bf16"
                comparisons.append(Comparison(full_name, *rates, "frames/s", more_is_better=True))
    return comparisons


def _common(folder: Path, settings: Settings, batch: int = 1) -> dict[str, Any]:
    data = binarized(folder, lines=8 * batch, frames=WINDOW)  # the public code drops batches that are not full
    weights = random_weights(folder / "weights.pt", data, WINDOW)
    # The public sample() takes as many prompts at once as --max-tokens allowed in training.
    options = [str(data), *RECIPE, *BASE_MODEL, "--tokens-per-sample", str(WINDOW), "--max-tokens", str(WINDOW * batch)]
    return {
        "work": "sample",
        "options": options,
        "weights": str(weights),
        "device": settings.device,
        "threads": settings.threads,
    }


def _rate(side: Side) -> float:
    measured = side.round()
    return measured["frames"] / measured["seconds"]


def long(settings: Settings) -> list[Comparison]:
    """The mean cost of a step about frame 6,000 (baseline: about frame 100), the sliding of the window counted in.

    About frame 100: frames 50 to 150. About frame 6,000: half a window (512 frames), in which the window slides once.
    """
    settings.check()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common = {**_common(folder, settings), "dtype": "float32"}
        half = WINDOW // 2
        near, far = (50, 150), (6000 - half // 2, 6000 + half // 2)
        with _at(common, folder / "near", *near) as first, _at(common, folder / "far", *far) as later:
            costs = in_turns(lambda: _cost(first), lambda: _cost(later), settings.rounds or ROUNDS, warm_up=1)
    keeps = lambda first, later: later <= 1.5 * first  # noqa: E731
    return [Comparison("sample-long", *costs, "ms/step", bound="at most 1.5 times", keeps=keeps)]


def _at(common: dict[str, Any], folder: Path, begin: int, end: int) -> Side:
    """Ours, continuing a prompt of ``begin`` frames, which is read in few large steps, to ``end``."""
    return ours({**common, "work": "steps", "prompts": [dialogue(begin, 7)], "frames": end, "folder": str(folder)})


def _cost(side: Side) -> float:
    return 1000 * side.round()["seconds_per_step"]
