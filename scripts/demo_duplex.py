"""A duplex model on synthetic conversations, in one command: demo/duplex/report.html."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("demo/duplex"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--conversations", type=int, default=700, help="to train on (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=30, help="to try the model on (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=400, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    from speechdlm_ext.demo.duplex import run_duplex_demo

    run_duplex_demo(get_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
