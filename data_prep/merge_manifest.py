"""Join shards: of a manifest into the manifest; of results into the manifest of their recordings, or one unit file."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command

_OLD_KINDS = {"manifest": "fields"}  # of --into


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
        "of MANIFEST, as data_prep/make_manifest.py --shard writes them; with --in-place those of MANIFEST.text, as "
        "scripts/transcribe.py writes them, which are removed when they are merged)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, metavar="FILE", help="write there (default, without SHARDS: MANIFEST)")
    where.add_argument("--in-place", action="store_true", help="write the results' fields into MANIFEST")
    parser.add_argument(
        "--kind",
        choices=("manifest", "units", "samples", "fields", "scores"),
        help="what the shards are: of MANIFEST itself; unit files, whose rows are kept as one run would have written "
        "them; likewise continuations of the prompts in MANIFEST; results whose fields are added to MANIFEST's rows; "
        "scores (default: as the first row is)",
    )
    parser.add_argument("--into", dest="kind", type=lambda old: _OLD_KINDS.get(old, old), help=argparse.SUPPRESS)
    parser.add_argument("--allow-missing", action="store_true", help="go on without items that have no result")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another output, and fields that have another value"
    )
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.io.likelihoods import are_likelihoods, merge_likelihoods, row_keys
    from speechdlm_ext.io.sharding import remove_shards
    from speechdlm_ext.units.files import read_unit_file
    from speechdlm_ext.units.merging import merge
    from speechdlm_ext.vad.corpus import are_detected, join_detected

    base = options.manifest.with_suffix("")
    if options.manifest.suffix == ".jsonl" and not options.shards and not options.in_place and are_detected(base):
        found = join_detected(base, options.overwrite)
        print(f"{found.recordings - found.failed} rows: {found.manifest}, {found.table}" if found else "no shards")
        return
    output = options.output or (options.manifest if options.in_place or not options.shards else None)
    if output is None:
        raise InputError("pass --output FILE, or --in-place to add the results' fields to the manifest itself")
    shards, kind = options.shards, options.kind
    text = f"{options.manifest}.text"  # of scripts/transcribe.py --in-place --shard
    if options.in_place and not shards:
        shards = [text]
    if kind == "scores" or kind is None and shards and all(map(are_likelihoods, shards)):
        keys = row_keys(read_unit_file(options.manifest), str(options.manifest))
        count = len(merge_likelihoods(keys, shards, output, options.allow_missing, options.overwrite))
    else:
        count = merge(options.manifest, shards, output, kind, options.allow_missing, options.overwrite)
    if options.in_place and shards == [text]:
        remove_shards(text)
    print(f"{count} rows: {output}")


if __name__ == "__main__":
    run_command(main)
