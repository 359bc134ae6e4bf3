"""Generate synthetic conversations by a script, for duplex models: a user says a word, an agent answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the recordings and manifest.jsonl")
    parser.add_argument("--count", type=int, default=300, help="conversations (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each (default: %(default)s)")
    parser.add_argument("--held-out", action="store_true", help="manners of speaking that are not in other corpora")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same audio (default: 1)")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.synthetic.requests import RequestOptions, make_requests

    settings = RequestOptions(seconds=options.seconds, held_out=options.held_out, seed=options.seed)
    print(make_requests(options.output, options.count, settings))


if __name__ == "__main__":
    run_command(main)
