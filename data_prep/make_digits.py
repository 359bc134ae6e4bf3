"""Generate strings of spoken digits of many speakers at 16 kHz, with manifests for recognition and classification."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        help="gets audio/, train.json, valid.json, test.json (strings), and labels/ with the same of digits",
    )
    parser.add_argument("--strings", type=int, default=1000, help="of training (default: %(default)s)")
    parser.add_argument(
        "--valid-strings", type=int, default=60, help="of synthetic voices that are held out (default: %(default)s)"
    )
    parser.add_argument(
        "--recordings", type=Path, metavar="MANIFEST",
        help="recorded digit strings: JSON lines with audio_filepath, text and speaker",
    )  # fmt: skip
    parser.add_argument("--held-out", nargs="+", default=[], metavar="SPEAKER", help="of the recordings: test.json")
    parser.add_argument(
        "--recorded-share", type=float, default=0.4, help="of the training strings (default: %(default)s)"
    )
    parser.add_argument(
        "--sentences", type=float, default=0.0, metavar="SHARE",
        help="of the training strings that are short sentences; sentences.json has held-out ones (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--sample-rate",
        type=int,
        default=16000,
        metavar="HZ",
        help="of the audio that is written (default: %(default)s)",
    )
    parser.add_argument(
        "--voice", default="", metavar="NAME",
        help="of espeak-ng, en-us for instance: one speaker for all strings, without noise (default: many)",
    )  # fmt: skip
    parser.add_argument(
        "--espeak-only",
        action="store_true",
        help="no other synthetic speakers, so that what is installed changes nothing",
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is sampled (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.synthetic.digits import DigitOptions, make_digits
    from speechdlm_ext.synthetic.speakers import installed

    if not options.espeak_only:
        others = ", ".join(one.name for one in installed()) or "none; docs/speech_recognition.md says what there is"
        print(f"speakers beside espeak-ng's: {others}", flush=True)
    counts = make_digits(
        options.folder,
        DigitOptions(
            options.strings, options.valid_strings, options.recordings, tuple(options.held_out),
            options.recorded_share, options.sentences, options.sample_rate, options.seed, options.voice,
            options.espeak_only,
        ),
        tqdm,
    )  # fmt: skip
    print(", ".join(f"{count} rows of {name}.json" for name, count in counts.items()) + f": {options.folder}")


if __name__ == "__main__":
    run_command(main)
