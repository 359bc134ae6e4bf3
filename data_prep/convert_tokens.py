"""Convert a unit file to a folder of AMELA's token files (<recording>.pt), or such a folder to a unit file."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="unit file, or folder of .pt files with a tensor of units each")
    parser.add_argument("target", type=Path, help="folder, or unit file")
    parser.add_argument("--channel", help="of a unit file with several, as unitB")
    parser.add_argument("--frame-rate", type=float, default=50.0, help="of token files, in Hz (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a unit file")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.units.files import UnitFile, write_unit_file
    from speechdlm_ext.units.token_files import read_token_files, write_token_files

    if options.source.is_dir():
        if options.target.exists() and not options.overwrite:
            raise InputError(f"{options.target} exists already: pass --overwrite to replace it")
        write_unit_file(options.target, read_token_files(options.source, options.frame_rate))
        print(options.target)
    else:
        count = write_token_files(UnitFile(options.source), options.target, options.channel)
        print(f"{count} files: {options.target}")


if __name__ == "__main__":
    run_command(main)
