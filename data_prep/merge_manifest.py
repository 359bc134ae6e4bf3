"""Join shards: of a manifest into the manifest; of results into the manifest of their recordings, or one unit file."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Rows belong together by their id (audio in unit files), else by audio_filepath. The order is that of "
        "the manifest, no field is dropped, and items that are missing or doubled are named. Shards of the manifest "
        "itself become what one run would have written, MANIFEST.errors included.",
    )
    parser.add_argument("manifest", type=Path, help="that the shards are of, or the results in them were made from")
    parser.add_argument(
        "shards",
        nargs="*",
        help="files of JSON lines; UNITS stands for all of UNITS.shard-0-of-N, UNITS.shard-1-of-N, … (default: those "
        "of MANIFEST, as data_prep/make_manifest.py --shard writes them)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there (default: into the manifest itself)")
    parser.add_argument(
        "--into",
        choices=("manifest", "units"),
        help="the manifest's rows with the results' fields added, or the unit files' rows as one run would have "
        "written them (default: units, where the shards are unit files and there is an --output)",
    )
    parser.add_argument("--allow-missing", action="store_true", help="go on without items that have no result")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another output, and fields that have another value"
    )
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.io.likelihoods import are_likelihoods, merge_likelihoods, row_keys
    from speechdlm_ext.units.files import read_unit_file
    from speechdlm_ext.units.merging import merge

    if options.shards and all(map(are_likelihoods, options.shards)):
        if options.output is None:
            raise InputError("scores are joined into a file of their own: pass --output")
        keys = row_keys(read_unit_file(options.manifest), str(options.manifest))
        scores = merge_likelihoods(keys, options.shards, options.output, options.allow_missing, options.overwrite)
        print(f"{len(scores)} scores: {options.output}")
        return
    rows = merge(
        options.manifest, options.shards, options.output, options.into, options.allow_missing, options.overwrite
    )
    print(f"{len(rows)} rows: {options.output or options.manifest}")


if __name__ == "__main__":
    run_command(main)
