"""How well n-grams predict units, in the unit of the losses of unit language models: their baseline."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Kneser-Ney, interpolated and modified (Chen & Goodman 1999)."
    )
    parser.add_argument("train", type=Path, help="unit file to count, as data_prep/split_units.py writes it")
    parser.add_argument("held_out", type=Path, help="unit file to predict")
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="(default: 1 2 3)")
    parser.add_argument("--num-units", type=int, help="size of the codebook (default: one more than the greatest unit)")
    parser.add_argument("--units", dest="num_units", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--channel", help="of unit files with several channels: the one to count and to predict")
    parser.add_argument("--without-copies", action="store_true", help="skip the copies of recordings at other speeds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if min(options.orders) < 1:
        raise InputError(f"--orders {min(options.orders)}: expected 1 or more")
    from speechdlm_ext.evaluation.ngrams import measure_unit_files, tabulate_figures, write_figures

    figures = measure_unit_files(
        options.train,
        options.held_out,
        options.orders,
        options.num_units,
        options.channel,
        copies=not options.without_copies,
    )
    print(tabulate_figures(figures), end="")
    if options.json:
        write_figures(options.json, figures)


if __name__ == "__main__":
    run_command(main)
