"""Turn the recordings of a manifest into units, with the encoder that the codebook names."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Stopped anywhere and started again, it goes on after the last whole recording."
    )
    parser.add_argument("manifest", type=Path, help="as data_prep/make_manifest.py writes it")
    parser.add_argument("units", type=Path, help='file to write, lines of {"audio": id, "unitA": "7 376 …", …}')
    parser.add_argument("--codebook", type=Path, required=True, help="as data_prep/train_codebook.py writes it")
    parser.add_argument(
        "--speeds",
        type=float,
        nargs="+",
        default=[],
        metavar="FACTOR",
        help="encode each recording at these speeds, too, for training on little audio: 0.9 1.1",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a unit file of other recordings or units")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.progress import follow
    from speechdlm_ext.units.codebook import Codebook
    from speechdlm_ext.units.corpus import encode_recordings
    from speechdlm_ext.units.recordings import read_manifest
    from speechdlm_ext.units.speeds import with_speeds

    rows = encode_recordings(
        with_speeds(read_manifest(options.manifest), options.speeds),
        Codebook.load(options.codebook),
        options.units,
        options.overwrite,
        progress=lambda items, seconds: follow(items, seconds, "encoding", tqdm.write),
        say=tqdm.write,
    )
    print(f"{len(rows)} recordings: {options.units}")


if __name__ == "__main__":
    run_command(main)
