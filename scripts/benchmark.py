"""Measure what we claim to be better at, the baseline and ours taking turns in the same run.

    python scripts/benchmark.py                    every part, on the CPU
    python scripts/benchmark.py train sample --json results.json
    python scripts/benchmark.py --device cuda      the same on a GPU

The baselines are the public SpeechDLM code and NeMo, in environments that are made at the first use
(scripts/benchmarks/environments.py). Medians are printed with the smallest and the largest value beside them, at the
end as a table in Markdown. A ratio above 1 means that ours is better.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.atomic import atomic_write

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmarks import PARTS  # noqa: E402
from benchmarks.comparison import Comparison, table  # noqa: E402
from benchmarks.sides import Settings  # noqa: E402


def main() -> int:
    """Run the parts that were named, print a table, write the JSON file; status 1 when a bound is broken."""
    arguments = _parse()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        raise InputError(f"no part is called {', '.join(unknown)}: there are {', '.join(PARTS)}")
    if arguments.list:
        for part, (module, function) in PARTS.items():
            print(f"{part:<16} {(_load(module, function).__doc__ or '').splitlines()[0]}")
        return 0
    settings = Settings(arguments.device, arguments.rounds, arguments.threads)
    settings.check()
    comparisons: list[Comparison] = []
    for part in arguments.parts or PARTS:
        for comparison in _load(*PARTS[part])(settings):
            print(comparison.line(), flush=True)
            comparisons.append(comparison)
            if arguments.json:
                _write(arguments.json, comparisons)
    print(f"\n{machine(arguments.device)}\n\n{table(comparisons)}")
    broken = [comparison for comparison in comparisons if comparison.is_broken()]
    for comparison in broken:
        print(f"{comparison.name}: beyond its bound, {comparison.bound}", file=sys.stderr)
    return 1 if broken else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {name: {baseline, ours, ratio, unit, …}}")
    parser.add_argument("--list", action="store_true", help="say what the parts measure, and end")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models run (default: cpu)")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="measured rounds (default: each part's own)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads of PyTorch")
    return parser.parse_args()


def machine(device: str) -> str:
    """The GPU, or the processor and its cores."""
    import platform

    import torch

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    names = [line.split(": ")[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def _load(module: str, function: str):  # type: ignore[no-untyped-def]  # (Settings) -> list[Comparison]
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)


def _write(path: Path, comparisons: list[Comparison]) -> None:
    with atomic_write(path) as file:
        json.dump({comparison.name: comparison.row() for comparison in comparisons}, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    run_command(main)
