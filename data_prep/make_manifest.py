"""List the recordings of a folder that can be used, one JSON object a line, and say why the others cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.corpora import CORPORA
from speechdlm_ext.io.sharding import add_shard_option, find_shard


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it goes on with the files not read yet. Shards are joined by "
        "data_prep/merge_manifest.py MANIFEST.",
    )
    parser.add_argument("folder", type=Path, help="recordings at any depth, of any sound or video format")
    parser.add_argument(
        "manifest",
        type=Path,
        help="file to write; MANIFEST.shard-I-of-N with --shard; MANIFEST.errors names the skipped files",
    )
    parser.add_argument("--channels", type=int, help="a recording must have (default: any number)")
    parser.add_argument(
        "--min-seconds",
        type=float,
        default=0.02,
        help="shorter recordings are skipped (default: %(default)s, a frame of units)",
    )
    known = "; ".join(f"{name}: {corpus.help}" for name, corpus in CORPORA.items())
    parser.add_argument(
        "--corpus", choices=tuple(CORPORA), metavar="NAME", help=f"{known} (default: every file is a recording)"
    )
    add_shard_option(parser)
    parser.add_argument(
        "--check",
        choices=("header", "full"),
        default="full",
        help="read each file through, which finds damage, silence, clipping, DC and equal channels, or only "
        "its header, which is quick (default: %(default)s)",
    )
    parser.add_argument("--num-workers", type=int, default=0, help="files read at a time (default: one for each core)")
    parser.add_argument("--workers", dest="num_workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--overwrite", action="store_true", help="replace a manifest that says something else")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    shard = find_shard(options.shard, options.manifest)
    if options.channels is not None and options.channels < 1:
        raise InputError(f"--channels {options.channels}: at least 1 is expected")
    if not 0 <= options.min_seconds < float("inf"):
        raise InputError(f"--min-seconds {options.min_seconds:g}: 0 or more is expected")
    from tqdm import tqdm

    from speechdlm_ext.io.manifest import errors_path, iter_jsonl
    from speechdlm_ext.io.progress import count
    from speechdlm_ext.io.scan import make_manifest

    used, _ = make_manifest(
        options.folder,
        options.manifest,
        options.channels,
        options.min_seconds,
        max(0, options.num_workers),
        options.overwrite,
        progress=lambda items, number: count(items, number, "reading", "file", tqdm.write),
        say=tqdm.write,
        shard=shard,
        check=options.check,
        corpus=CORPORA[options.corpus] if options.corpus else None,
    )
    hours = sum(row["duration"] for row in used) / 3600
    channels = sum(row["channels"] * row["duration"] for row in used) / 3600
    manifest, which = options.manifest, ""
    if shard is not None:
        manifest, which = shard.path(manifest), f"shard {shard}: "
    skipped = sum(1 for _ in iter_jsonl(errors_path(manifest))) if errors_path(manifest).is_file() else 0
    print(
        f"{which}{len(used)} of {len(used) + skipped} recordings, {hours:.3f} h, {channels:.3f} h of channels: "
        f"{manifest}"
    )
    if skipped:
        print(f"{skipped} others, and why: {errors_path(manifest)}")


if __name__ == "__main__":
    run_command(main)
