"""Units to speech by an acoustic model and a codec, both trained here, and what a recogniser makes of the result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Stopped anywhere and started again, it continues where it was."
    )
    parser.add_argument("speaker", type=Path, help="manifest of recordings of one speaker: of codebooks and codec")
    parser.add_argument("test", type=Path, help='manifest of others, with "text"')
    parser.add_argument("--train", type=Path, help="manifest for the acoustic model (default: SPEAKER)")
    parser.add_argument("--output", type=Path, default=Path("demo-unit-to-codec"), help="folder (default: %(default)s)")
    parser.add_argument("--pairs", nargs="+", default=["k100-l0", "k100-l1000", "k100-l3000"], help="of K and λ")
    parser.add_argument("--codes", type=int, default=1500, help="of the codec (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=250, help="of each acoustic model (default: %(default)s)")
    parser.add_argument("--hifigan-updates", type=int, default=400, help="of a unit HiFi-GAN; 0: none (default: 400)")
    parser.add_argument(
        "--asr", default="pocketsphinx", metavar="KIND:MODEL", help="recogniser (default: pocketsphinx)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.demo.unit_to_codec import run_demo
    from speechdlm_ext.evaluation.wer_bitrate import Pair

    options.train = options.train or options.speaker
    options.pairs = [Pair.of(name) for name in options.pairs]
    run_demo(options)


if __name__ == "__main__":
    run_command(main)
