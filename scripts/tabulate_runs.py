"""Tabulate the runs of a grid: which options differ between them, and how good each one's best checkpoint is."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.commands.old_names import add_old_names
from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of the runs, as fairseq-hydra-train --multirun made it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the table (default: results.md among the runs)")
    add_old_names(parser, {"--out": "--output"})
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.evaluation.training_runs import write_results

    table, path = write_results(options.runs, options.output)
    print(table, end="")
    print(f"written to {path}")


if __name__ == "__main__":
    run_command(main)
