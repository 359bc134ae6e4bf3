"""Train a k-means codebook on the frames of the recordings in a manifest."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.commands.units import add_encoder_options, add_worker_option, build_placed_encoder, encoder_options
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it goes on after the last whole recording. With --shard it makes "
        "the features of a part of the recordings only, which takes the time; when all shards are done, the same "
        "command without --shard takes them together and trains: on one machine, after the array's tasks.",
    )
    parser.add_argument("manifest", type=Path, help="as data_prep/make_manifest.py writes it")
    parser.add_argument("codebook", type=Path, help="safetensors file to write")
    add_encoder_options(parser, default="logmel")
    add_renamed(
        parser, "--num-units", "--clusters", "--units", type=int, default=100,
        help="number of centroids K, and so of units (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-frames",
        type=int,
        default=300_000,
        help="frames to train on, the same share of every recording (default: %(default)s)",
    )
    parser.add_argument(
        "--share", type=float, help="of the frames of every recording to train on, 0.1 for instance, and no maximum"
    )
    parser.add_argument(
        "--algorithm",
        default="full",
        help="full (scikit-learn), minibatch (scikit-learn, in bounded memory), faiss (if installed) (default: full)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the frames and first centroids (default: %(default)s)")
    parser.add_argument(
        "--features", type=Path, help="NumPy file to keep the features in (default: one that goes when all is done)"
    )
    add_shard_option(parser)
    add_worker_option(parser)
    add_renamed(
        parser, "--num-threads", "--threads", type=int, default=1,
        help="of the k-means; with more than 1, codebooks differ in their last digits from run to run "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing codebook")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    dump = options.features or options.codebook.with_name(options.codebook.name + ".features.npy")
    shard = find_shard(options.shard, dump)
    encoder_options(options)  # what is wrong with them is said before the manifest is read
    if options.codebook.exists() and not options.overwrite:
        raise InputError(f"{options.codebook} exists already: pass --overwrite to replace it")
    if options.num_units < 1 or options.num_threads < 1:
        raise InputError(
            f"--num-units {options.num_units}, --num-threads {options.num_threads}: at least 1 is expected"
        )
    if options.share is not None and not 0 < options.share <= 1:
        raise InputError(f"--share {options.share:g}: more than 0, and 1 at most, is expected")
    if not 0 <= options.seed < 1 << 32:
        raise InputError(f"--seed {options.seed}: a number from 0 to {(1 << 32) - 1} is expected")
    if options.max_frames < 1:
        raise InputError(f"--max-frames {options.max_frames}: at least 1 is expected")
    from tqdm import tqdm

    from speechdlm_ext.io.locking import exclusive
    from speechdlm_ext.io.progress import follow
    from speechdlm_ext.io.recordings import read_manifest
    from speechdlm_ext.units.feature_dump import dump_features, remove_dump
    from speechdlm_ext.units.kmeans import check_algorithm, count_frames, train_codebook

    check_algorithm(options.algorithm)
    rows = read_manifest(options.manifest)
    encoder = build_placed_encoder(options)
    frames = count_frames(rows, encoder)
    share = options.share or min(1.0, options.max_frames / max(frames, 1))
    if options.num_units > share * frames:
        raise InputError(
            f"{options.num_units} units from about {share * frames:.0f} frames: take fewer units or more frames"
        )
    # Shards keep out of each other's way by the locks of their own files.
    with nullcontext() if shard is not None else exclusive(options.codebook):
        features, levels = dump_features(
            rows,
            encoder,
            dump,
            share,
            options.seed,
            lambda items, seconds: follow(items, seconds, "features", tqdm.write),
            say=tqdm.write,
            workers=options.num_workers,
            dtype=options.dtype,
            shard=shard,
        )
        if shard is not None:
            recordings = len(shard.take(rows))
            print(f"shard {shard}: {len(features)} frames of {recordings} recordings: {shard.path(dump)}")
            return
        print(f"k-means: {options.num_units} units from {len(features)} frames of width {encoder.dim}", flush=True)
        codebook = train_codebook(
            features, encoder, options.num_units, options.seed, levels, options.algorithm, options.num_threads
        )
        codebook.save(options.codebook)
        if options.features is None:
            remove_dump(dump)
    print(f"codebook {codebook.fingerprint}, {codebook.num_units} x {codebook.dim}: {options.codebook}")


if __name__ == "__main__":
    run_command(main)
