"""Accuracies of log-likelihoods in sWUGGY, sBLIMP and topic StoryCloze."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, epilog="Ties are no successes."
    )
    parser.add_argument(
        "scores", type=Path, help="lines of 'key log-likelihood', as scripts/score_units.py writes them"
    )
    parser.add_argument(
        "test",
        type=Path,
        help="folder with gold.csv (sWUGGY, sBLIMP), or with lexical/dev/gold.csv and the like in it, or with files "
        "<id>_<prefix>_correct.* and <id>_<prefix>_incorrect.* (topic StoryCloze)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, with all names of missing files")
    parser.add_argument("--resamples", type=int, default=1000, help="of items, for the intervals")
    parser.add_argument("--confidence", type=float, default=0.95, help="share of resamples in an interval")
    parser.add_argument("--seed", type=int, default=1, help="of the resamples")
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()

    from speechdlm_ext.errors import InputError
    from speechdlm_ext.evaluation.zerospeech import measure_accuracy, read_tests
    from speechdlm_ext.io.config import write_json
    from speechdlm_ext.io.likelihoods import read_likelihoods
    from speechdlm_ext.metrics.bootstrap import BootstrapOptions

    if args.resamples < 1 or not 0 < args.confidence < 1:
        raise InputError(
            f"--resamples {args.resamples} --confidence {args.confidence}: expected 1 or more, and a share"
        )
    options = BootstrapOptions(args.resamples, args.confidence, args.seed)
    scores = read_likelihoods(args.scores)
    tests = read_tests(args.test)
    results, refused = {}, []
    for test in tests:
        try:
            results[test.name] = measure_accuracy(test, scores, options)
        except InputError as error:  # of several tests, some may not have been scored
            refused.append(error)
    if not results:
        raise refused[0]
    for reason in refused:
        print(f"skipped: {reason}", file=sys.stderr)
    for name, found in results.items():
        for line in _report(name, found):
            print(line)
    if args.json:
        write_json(args.json, results)


def _report(name: str, found: dict[str, Any]) -> list[str]:
    """A test's figures, and what is missing, by name."""
    bounds = found["interval"]
    interval = "" if bounds is None else f" [{100 * bounds[0]:.2f}, {100 * bounds[1]:.2f}]"
    lines = [
        f"{name}: {100 * found['accuracy']:.2f} %{interval}, {found['items']} items, {found['pairs']} pairs, "
        f"{found['ties']} ties ({100 * found['with_ties']:.2f} % with ties for a half)"
    ]
    lines += [f"  {kind}: {100 * own['accuracy']:.2f} %, {own['items']} items" for kind, own in found["groups"].items()]
    for what in ("missing", "without_likelihood"):
        names = list(found[what])
        if names:
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            label = "without a score" if what == "missing" else "without a likelihood"
            lines.append(f"  {label}: {len(names)} ({shown})")
    if found["skipped"]:
        lines.append(f"  skipped for that: {found['skipped']} pairs")
    return lines


if __name__ == "__main__":
    run_command(main)
