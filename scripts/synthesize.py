"""Turn a unit file into wav files, one channel of sound for each channel of units."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Stopped anywhere and started again, it makes the files that are missing."
    )
    parser.add_argument("units", type=Path, help='lines of {"audio": name, "unitA": "7 376 …", "unitB": "…"}')
    parser.add_argument("out_dir", type=Path, help="gets <audio>.wav for every line")
    parser.add_argument("--codebook", type=Path, required=True, help="that the units were made with")
    parser.add_argument("--seed", type=int, default=1, help="of the noise in the voices (default: %(default)s)")
    parser.add_argument(
        "--pitches",
        type=float,
        nargs="+",
        default=[120.0, 190.0],
        metavar="HZ",
        help="of the voices, one for each channel (default: 120 190)",
    )
    parser.add_argument(
        "--iterations", type=int, default=0, help="of Griffin-Lim phase reconstruction (default: 0, a source's phases)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace wav files of other units or settings")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.synthesis import CodebookVocoder
    from speechdlm_ext.synthesis.speaking import speak_rows
    from speechdlm_ext.units import Codebook
    from speechdlm_ext.units.files import read_unit_file

    rows = read_unit_file(options.units)
    codebook = Codebook.load(options.codebook)
    vocoder = CodebookVocoder(codebook, options.seed, options.pitches, options.iterations)
    settings = {
        "codebook": codebook.fingerprint,
        "seed": options.seed,
        "pitches": options.pitches,
        "iterations": options.iterations,
    }
    paths = speak_rows(
        rows,
        vocoder,
        options.out_dir,
        settings,
        options.overwrite,
        progress=lambda items: tqdm(items, desc="synthesis", unit="file", disable=None),
        say=tqdm.write,
    )
    print(f"{len(paths)} wav files: {options.out_dir}")


if __name__ == "__main__":
    run_command(main)
