"""Cut a unit file into training and validation segments, and write what fairseq-preprocess reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("units", type=Path, help="as data_prep/encode_units.py writes it")
    parser.add_argument("output", type=Path, help="folder for {train,valid}.jsonl, .<channel> and dict.txt")
    parser.add_argument("--valid", type=float, default=0.1, help="share of the time to hold out (default: 0.1)")
    parser.add_argument(
        "--test",
        type=float,
        default=0,
        help="share of the time to hold out beside that, as test.jsonl and test.<channel>, in whole recordings "
        "(default: none)",
    )
    parser.add_argument("--segment-seconds", type=float, default=60, help="longest segment (default: %(default)s)")
    parser.add_argument(
        "--expand",
        action="store_true",
        help="write a unit for each frame of deduplicated ones, too, as a SpeechDLM expects them; else they stay as "
        "they are, with <part>.<channel>.durations beside them",
    )
    parser.add_argument("--frames", dest="expand", action="store_true", help=argparse.SUPPRESS)  # its old name
    parser.add_argument(
        "--jsonl-only",
        action="store_true",
        help="write no other files than {train,valid}.jsonl, which is what a vocoder is trained on; mono and stereo "
        "recordings may then be mixed",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the choice of recordings (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace another split that is there")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.units.files import UnitFile
    from speechdlm_ext.units.splitting import split_rows, write_split

    split = split_rows(
        UnitFile(options.units, options.expand),
        options.valid,
        options.segment_seconds,
        seed=options.seed,
        test=options.test,
        mixed=options.jsonl_only,
    )
    sizes = write_split(options.output, split, options.overwrite, options.jsonl_only)
    what = "whole recordings" if split.by_recording else "the end of each recording"
    for name, (segments, seconds) in sizes.items():
        print(f"{name}: {segments} segments, {seconds:.1f} s")
    print(f"held out: {what}; files in {options.output}")


if __name__ == "__main__":
    run_command(main)
