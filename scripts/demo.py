"""From raw two-channel audio to a dialogue that a model continues, in one command: demo/report.html."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.commands.old_names import add_old_names
from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audio", type=Path, metavar="FOLDER", help="two-channel recordings of your own")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=12, help="of synthetic dialogue (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=400, help="of training (default: %(default)s)")
    parser.add_argument("--num-units", type=int, default=100, help="in the codebook (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=6, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2, help="continuations of each prompt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    add_old_names(parser, {"--out": "--output", "--units": "--num-units"})
    return parser


def main() -> None:
    """Run the command."""
    from speechdlm_ext.demo.run import run_demo

    run_demo(get_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
