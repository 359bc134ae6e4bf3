"""From spoken digits to a recogniser of them, in one command: demo/asr/report.html."""

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
        "--output", type=Path, default=Path("demo/asr"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument(
        "--recordings", type=Path, metavar="MANIFEST", help="recorded digit strings, see make_digits.py"
    )
    parser.add_argument(
        "--held-out", nargs="+", default=[], metavar="SPEAKER", help="of the recordings: transcribed, never trained on"
    )
    parser.add_argument("--strings", type=int, default=2400, help="of training (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=1200, help="of training (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="strings in an update (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="channels of the network (default: %(default)s)")
    parser.add_argument(
        "--baseline", action="store_true", help="also train fairseq's wav2vec 2.0 with CTC, as long and as large"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    from speechdlm_ext.demo.speech_recognition import run_asr_demo

    run_asr_demo(get_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
