"""Measure what we claim to be better at, the baseline and ours taking turns in the same run.

    python scripts/benchmark.py                    every part that this machine can do
    python scripts/benchmark.py train-fp32 sample-beam5 --json results.json
    python scripts/benchmark.py --device cuda      the parts for a GPU

The baseline is the public SpeechDLM code, in an environment that is made at the first use (scripts/benchmarks/
public_code.py). Medians are printed with the smallest and the largest value beside them, at the end as a table in
Markdown. A ratio above 1 means that ours is better.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.atomic import atomic_write

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmarks import GPU_PARTS, PARTS  # noqa: E402
from benchmarks.comparison import Comparison, table  # noqa: E402
from benchmarks.processor import description, has_bf16  # noqa: E402
from benchmarks.sides import Settings  # noqa: E402


def main() -> int:
    """Run the parts that were named, print a table, write the JSON file; status 1 when a bound is broken."""
    arguments = _parse()
    every = {**PARTS, **GPU_PARTS}
    unknown = sorted(set(arguments.parts) - set(every))
    if unknown:
        raise InputError(f"no part is called {', '.join(unknown)}: there are {', '.join(every)}")
    if arguments.list:
        for part, (module, function) in every.items():
            print(f"{part:<16} {(_load(module, function).__doc__ or '').splitlines()[0]}")
        return 0
    settings = Settings(arguments.device, arguments.rounds, arguments.threads, arguments.bf16)
    settings.check()
    comparisons: list[Comparison] = []
    for part in arguments.parts or _default_parts(settings):
        for comparison in _load(*every[part])(settings):
            print(comparison.line(), flush=True)
            comparisons.append(comparison)
            if arguments.json:
                _write(arguments.json, comparisons)
    print(f"\n{description()}\n\n{table(comparisons)}")
    broken = [comparison for comparison in comparisons if comparison.is_broken()]
    for comparison in broken:
        print(f"{comparison.name}: beyond its bound, {comparison.bound}", file=sys.stderr)
    return 1 if broken else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join([*PARTS, *GPU_PARTS])}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {name: {baseline, ours, ratio, unit, …}}")
    parser.add_argument("--list", action="store_true", help="say what the parts measure, and end")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models run (default: cpu)")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="measured rounds (default: each part's own)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads of PyTorch")
    parser.add_argument("--bf16", action="store_true", help="measure bf16 on a CPU without instructions for it, too")
    return parser.parse_args()


def _default_parts(settings: Settings) -> list[str]:
    if settings.device == "cuda":
        return [*GPU_PARTS, "sample-beam1"]
    if has_bf16() or settings.bf16:
        return list(PARTS)
    print("this CPU has no bf16 instructions: train-bf16 and bf16 sampling are left out (--bf16 measures them)")
    return [part for part in PARTS if part != "train-bf16"]


def _load(module: str, function: str):  # type: ignore[no-untyped-def]  # (Settings) -> list[Comparison]
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)


def _write(path: Path, comparisons: list[Comparison]) -> None:
    with atomic_write(path) as file:
        json.dump({comparison.name: comparison.row() for comparison in comparisons}, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    run_command(main)
