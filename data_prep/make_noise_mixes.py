"""Mix speech with noises at 16 kHz, with a label (0 background, 1 speech) every 20 ms: data for speech detectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="gets audio/, train.json, valid.json and labels.txt")
    parser.add_argument("--mixes", type=int, default=400, help="of training (default: %(default)s)")
    parser.add_argument("--valid-mixes", type=int, default=40, help="with speakers of their own (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each (default: %(default)s)")
    parser.add_argument(
        "--recordings", type=Path, metavar="MANIFEST",
        help="clean speech beside that of espeak-ng: JSON lines with audio_filepath and speaker",
    )  # fmt: skip
    parser.add_argument(
        "--vad", default="", metavar="DETECTOR",
        help="says where the recordings have speech, as silero (default: where they are loud)",
    )  # fmt: skip
    parser.add_argument(
        "--lowest-snr", type=float, default=0.0, help="dB of the speech over the noise; up to 40 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.synthetic.noise_mixes import MixOptions, make_mixes

    counts = make_mixes(
        options.folder,
        MixOptions(
            options.mixes,
            options.valid_mixes,
            options.seconds,
            options.recordings,
            options.vad,
            options.lowest_snr,
            options.seed,
        ),
        lambda plans: tqdm(plans, "mixes"),
    )
    print(", ".join(f"{count} mixes of {name}.json" for name, count in counts.items()) + f": {options.folder}")


if __name__ == "__main__":
    run_command(main)
