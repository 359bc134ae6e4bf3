"""Units to speech by an acoustic model and a codec, both trained here, and what a recogniser makes of the result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Stopped anywhere and started again, it continues where it was."
    )
    parser.add_argument(
        "speaker", type=Path, nargs="?",
        help="manifest of recordings of one speaker: of codebooks and codec (default: strings of digits of a synthetic "
        "voice, which are made)",
    )  # fmt: skip
    parser.add_argument("test", type=Path, nargs="?", help='manifest of others, with "text"')
    parser.add_argument("--train", type=Path, help="manifest for the acoustic model (default: SPEAKER)")
    parser.add_argument("--output", type=Path, default=Path("demo/unit_to_codec"), help="folder (default: %(default)s)")
    parser.add_argument("--strings", type=int, default=300, help="of digits, to train on (default: %(default)s)")
    parser.add_argument("--test-strings", type=int, default=60, help="others, to recognise (default: %(default)s)")
    parser.add_argument("--pairs", nargs="+", default=["k100-l0", "k100-l3000", "k100-l30000"], help="of K and λ")
    parser.add_argument("--codes", type=int, default=256, help="of the codec (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=300, help="of each acoustic model (default: %(default)s)")
    parser.add_argument("--hifigan-updates", type=int, default=400, help="of a unit HiFi-GAN; 0: none (default: 400)")
    parser.add_argument(
        "--asr", metavar="KIND:MODEL",
        help="recogniser (default: pocketsphinx; of strings of digits one that is trained here, on other voices)",
    )  # fmt: skip
    parser.add_argument("--asr-strings", type=int, default=1200, help="of digits, of that one (default: %(default)s)")
    parser.add_argument("--asr-updates", type=int, default=1000, help="of that one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.demo.unit_to_codec import run_demo
    from speechdlm_ext.evaluation.wer_bitrate import Pair

    if options.speaker is not None and options.test is None:
        raise InputError("TEST is missing: a manifest of other recordings of the speaker, with their texts")
    options.pairs = [Pair.of(name) for name in options.pairs]
    run_demo(options)


if __name__ == "__main__":
    run_command(main)
