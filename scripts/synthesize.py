"""Turn a unit file into wav files, one channel of sound for each channel of units."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechdlm_ext.errors import run_command
from speechdlm_ext.vocoders.registry import add_vocoder_options, build_vocoder


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Stopped anywhere and started again, it makes the files that are missing."
    )
    parser.add_argument("units", type=Path, help='lines of {"audio": name, "unitA": "7 376 …", "unitB": "…"}')
    parser.add_argument("out_dir", type=Path, help="gets <audio>.wav for every line")
    parser.add_argument("--codebook", type=Path, help="that the units were made with; --vocoder codebook needs it")
    parser.add_argument(
        "--frame-level",
        "--duplicated",
        dest="frame_level",
        action="store_true",
        help="there is one unit for every frame, in a file that does not say so",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace wav files of other units or settings")
    add_vocoder_options(parser, "--checkpoint")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.units.codebook_files import load_codebook
    from speechdlm_ext.units.files import read_unit_file
    from speechdlm_ext.vocoders.synthesize import speak_rows

    rows = read_unit_file(options.units)
    vocoder = build_vocoder(options, load_codebook(options.codebook) if options.codebook else None)
    paths = speak_rows(
        rows,
        vocoder,
        options.out_dir,
        overwrite=options.overwrite,
        progress=lambda items: tqdm(items, desc="synthesis", unit="file", disable=None),
        say=lambda line: tqdm.write(line, file=sys.stderr),
        duplicated=options.frame_level or None,
    )
    print(f"{len(paths)} wav files: {options.out_dir}")


if __name__ == "__main__":
    run_command(main)
