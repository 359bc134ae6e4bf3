"""Measure what we claim to be better at, the baseline and ours taking turns in the same run.

    python scripts/benchmark.py                    every part
    python scripts/benchmark.py startup --json results.json

Each part is a module of scripts/benchmarks/ with a function `measure() -> list[Comparison]`; --list shows the first
line of its docstring. Medians are printed with the smallest and the largest value beside them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.manifest import atomic_write

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmarks.comparison import Comparison  # noqa: E402


def main() -> int:
    """Run the parts that were named, print a table, write the JSON file; status 1 when a bound is broken."""
    parts = _parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all when none is named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {name: {baseline, ours, ratio, unit}}")
    parser.add_argument("--list", action="store_true", help="say what the parts measure, and end")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(parts))
    if unknown:
        raise InputError(f"no part is called {', '.join(unknown)}: there are {', '.join(parts)}")
    if arguments.list:
        for part in parts:
            print(f"{part:<16} {(_load(part).__doc__ or '').splitlines()[0]}")
        return 0
    comparisons: list[Comparison] = []
    for part in arguments.parts or parts:
        for comparison in _load(part).measure():
            print(comparison.line(), flush=True)
            comparisons.append(comparison)
    if arguments.json:
        with atomic_write(arguments.json) as file:
            json.dump({comparison.name: comparison.row() for comparison in comparisons}, file, indent=2)
            file.write("\n")
    broken = [comparison for comparison in comparisons if comparison.is_broken()]
    for comparison in broken:
        print(f"{comparison.name}: beyond its bound, {comparison.bound}", file=sys.stderr)
    return 1 if broken else 0


def _parts() -> list[str]:
    folder = Path(__file__).resolve().parent / "benchmarks"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "comparison"))


def _load(part: str):  # type: ignore[no-untyped-def]  # a module with measure()
    return importlib.import_module(f"benchmarks.{part}")


if __name__ == "__main__":
    run_command(main)
