"""The duration-penalized quantizer beside a plain quadratic dynamic programme, its own distances, and longer input."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks.comparison import Comparison, in_turns, seconds
from benchmarks.sides import Settings
from speechdlm_ext.errors import InputError
from speechdlm_ext.units import DPDPQuantizer

ROUNDS = 5
FRAMES, UNITS, DIM = 2000, 500, 1024
HOUR = 180_000  # frames
FILES = 32
PENALTY = 4500.0
SPEEDUP, SHARE, SLACK, MEMORY_GB = 100.0, 0.15, 1.1, 0.1


def measure(settings: Settings) -> list[Comparison]:
    """Units of 2000 frames (K = 500, D = 1024) against plain torch; the search's share, an hour, a batch of 32."""
    # A process of its own: what it takes at most is to be this part's memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        rows = process.submit(_measure, settings.threads, settings.rounds or ROUNDS).result()
    bounds: dict[str, tuple[str, Callable[[float, float], bool]]] = {
        "quantizer": (f"at least {SPEEDUP:g} times", lambda plain, ours: plain >= SPEEDUP * ours),
        "quantizer-search": (f"at most {SHARE:.0%} of the distances", lambda dist, search: search <= SHARE * dist),
        "quantizer-hour": ("a frame costs the same", lambda short, hour: hour <= SLACK * short),
        "quantizer-hour-memory": (f"at most {MEMORY_GB:g} GB more", lambda features, more: more <= MEMORY_GB),
        "quantizer-batch": ("a frame costs the same or less", lambda one, many: many <= SLACK * one),
    }
    return [Comparison(name, *values, unit, False, *bounds[name]) for name, values, unit in rows]


def _measure(threads: int, rounds: int) -> list[tuple[str, tuple[list[float], list[float]], str]]:
    if threads:
        torch.set_num_threads(threads)
    centroids = torch.randn(UNITS, DIM, generator=torch.Generator().manual_seed(1)) * 3
    quantizer = DPDPQuantizer(centroids, PENALTY)
    features = _features(centroids, FRAMES)
    if plain_units(features, centroids, PENALTY) != quantizer.quantize(features).tolist():
        raise InputError("the plain programme and ours give different units: nothing is measured")
    rows = []
    plain = lambda: 1e3 * seconds(lambda: plain_units(features, centroids, PENALTY))  # noqa: E731
    rows.append(("quantizer", in_turns(plain, lambda: 1e3 * _usual(lambda: quantizer(features)), rounds), "ms"))
    tables = [table.clone() for table in quantizer.codes([features])]

    def distances() -> None:
        for _ in quantizer.codes([features]):
            pass

    def search() -> None:
        search = quantizer.search()
        for table in tables:
            search.add(table)
        search.units()

    both = in_turns(lambda: 1e3 * _usual(distances), lambda: 1e3 * _usual(search), rounds)
    rows.append(("quantizer-search", both, "ms"))
    one = lambda: 1e6 * _usual(lambda: quantizer.quantize(features)) / FRAMES  # noqa: E731
    files = [features[: FRAMES - 40 * number].clone() for number in range(FILES)]
    frames = sum(map(len, files))
    many = lambda: 1e6 * seconds(lambda: quantizer.quantize_batch(files)) / frames  # noqa: E731
    rows.append(("quantizer-batch", in_turns(one, many, rounds), "µs/frame"))
    long = _features(centroids, HOUR)
    before = _memory("VmRSS")
    hour = lambda: 1e6 * seconds(lambda: quantizer.quantize(long)) / HOUR  # noqa: E731
    rows.append(("quantizer-hour", in_turns(one, hour, rounds, warm_up=0), "µs/frame"))
    memory = [long.numel() * 4 / 1e9], [max(0.0, _memory("VmHWM") - before)]
    rows.append(("quantizer-hour-memory", memory, "GB"))
    return rows


def plain_units(features: torch.Tensor, centroids: torch.Tensor, penalty: float) -> list[int]:
    """The same optimum in O(T²·K): for each frame, the best beginning of the segment that ends there.

    The costs of all segments that end in a frame are the distances summed up backwards from it.
    """
    distances = torch.cdist(features, centroids).square()
    best = torch.zeros(len(features) + 1)
    begins, units = [], []
    for end in range(1, len(features) + 1):
        costs, cheapest = distances[:end].flip(0).cumsum(0).min(dim=1)  # of the segments of 1, 2, … frames
        totals = best[:end].flip(0) + costs + penalty
        length = int(totals.argmin()) + 1
        best[end] = totals[length - 1]
        begins.append(end - length)
        units.append(int(cheapest[length - 1]))
    found: list[int] = []
    end = len(features)
    while end > 0:
        begin = begins[end - 1]
        found[:0] = [units[end - 1]] * (end - begin)
        end = begin
    return found


def _features(centroids: torch.Tensor, frames: int) -> torch.Tensor:
    """Frames around centroids that stay for three frames on average."""
    generator = torch.Generator().manual_seed(frames)
    stays = torch.randint(1, 6, (frames,), generator=generator)
    units = torch.randint(UNITS, (frames,), generator=generator).repeat_interleave(stays)[:frames]
    features = torch.empty(frames, DIM)
    for part, some in zip(features.split(FRAMES), units.split(FRAMES), strict=True):
        part.normal_(generator=generator).mul_(4).add_(centroids[some])
    return features


def _usual(action: Callable[[], object]) -> float:
    """The median of five, in seconds: one is too short to be measured well."""
    return statistics.median(seconds(action) for _ in range(5))


def _memory(kind: str) -> float:
    """``VmRSS``, what the process has in memory, or ``VmHWM``, the most it had, in GB; 0 where there is no /proc."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(kind)) * 1024 / 1e9
    except OSError:
        return 0.0
