"""CSV files, and recordings or cuts of lhotse, to a manifest; and a manifest to recordings or cuts of lhotse."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "input",
        type=Path,
        help="a manifest; a .csv with audio_filepath, duration, and perhaps file_id, as AMELA has it; or lhotse's "
        "recordings.jsonl or cuts.jsonl, perhaps .gz",
    )
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument(
        "--to",
        choices=("manifest", "recordings", "cuts"),
        default="manifest",
        help="what to write: a manifest, or lhotse's recordings or cuts (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.io.lhotse import lhotse_lines, read_lhotse
    from speechdlm_ext.io.manifest import read_table, write_jsonl
    from speechdlm_ext.io.recordings import read_manifest

    if options.output.exists() and not options.overwrite:
        raise InputError(f"{options.output} is there already: pass --overwrite to replace it")
    if options.to == "manifest":
        read = read_table if options.input.suffix == ".csv" else read_lhotse
        count = write_jsonl(options.output, read(options.input))
        if not count:
            options.output.unlink()
            raise InputError(f"{options.input} has no recordings or cuts")
        read_manifest(options.output)  # ids are names of files, and no two are the same
    else:
        count = write_jsonl(options.output, lhotse_lines(read_manifest(options.input), options.to == "cuts"))
    print(f"{count} rows: {options.output}")


if __name__ == "__main__":
    run_command(main)
