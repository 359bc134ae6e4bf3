"""Turn the recordings of a manifest into units, each channel of them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from speechdlm_ext.commands.units import add_unit_options, add_worker_option, load_pipeline
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, check_division, find_shard


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it goes on after the last whole recording. Shards are joined by "
        "data_prep/merge_manifest.py.",
    )
    parser.add_argument("manifest", type=Path, help="as data_prep/make_manifest.py writes it")
    parser.add_argument(
        "units",
        type=Path,
        help='file to write, lines of {"audio": id, "unitA": "7 376 …", …}; UNITS.shard-I-of-N with --shard; '
        "UNITS.errors names the recordings that were skipped",
    )
    add_unit_options(parser)
    parser.add_argument(
        "--deduplicate",
        action="store_true",
        help='write each run of equal units as one unit, and how many frames it lasts as "unitA.durations"',
    )
    add_shard_option(parser)
    add_worker_option(parser)
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
    shard = find_shard(options.shard, options.units)
    if options.units.resolve() == options.manifest.resolve():
        raise InputError(f"{options.units} is the manifest: name another file for the units")
    from tqdm import tqdm

    from speechdlm_ext.io.manifest import errors_path
    from speechdlm_ext.io.progress import follow
    from speechdlm_ext.io.recordings import digest_recordings, read_manifest
    from speechdlm_ext.io.speeds import with_speeds
    from speechdlm_ext.units.encoding import encode_recordings
    from speechdlm_ext.units.summary import summarize

    rows = with_speeds(read_manifest(options.manifest), options.speeds)
    output = options.units
    if shard is not None:
        check_division(output, shard, digest_recordings(rows), options.manifest, options.overwrite)
        rows, output = shard.take(rows), shard.path(output)
        print(f"shard {shard}: {len(rows)} recordings", flush=True)
    pipeline = load_pipeline(options)
    start, seconds = time.monotonic(), 0.0

    def progress(items, total):  # type: ignore[no-untyped-def]  # as encode_recordings has it
        nonlocal seconds
        for item in follow(items, total, "encoding", tqdm.write):
            yield item
            seconds += item.seconds

    made = encode_recordings(
        rows,
        pipeline.codebook,
        output,
        options.overwrite,
        progress,
        say=tqdm.write,
        encoder=pipeline.encoder,
        quantizer=pipeline.quantizer,
        deduplicate=options.deduplicate,
        batch_seconds=options.batch_seconds,
        workers=options.num_workers,
        settings=pipeline.settings,
        may_be_empty=shard is not None,
    )
    elapsed = time.monotonic() - start
    skipped = len(rows) - len(made)
    for line in summarize(made).lines(skipped, seconds / elapsed if seconds else None):
        print(line)
    print(f"{len(made)} recordings: {output}" + (f"; skipped: {errors_path(output)}" if skipped else ""))


if __name__ == "__main__":
    run_command(main)
