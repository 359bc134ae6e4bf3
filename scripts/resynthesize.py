"""Recordings to units and back to sound: what a codebook and a vocoder keep of speech, for whole data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard
from speechdlm_ext.units.pipeline import add_unit_options
from speechdlm_ext.vocoders.registry import add_vocoder_options, build_vocoder


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Stopped anywhere and started again, it makes the files that are missing."
    )
    parser.add_argument("manifest", type=Path, help="as data_prep/make_manifest.py writes it")
    parser.add_argument(
        "dataset",
        help="files go to OUTPUT_DIR/DATASET and there into folders as those that follow DATASET in the recordings' "
        "paths; if it is not in all of them, as those below the folder that they have in common",
    )
    parser.add_argument("--output-dir", type=Path, default=Path("output"), help="(default: %(default)s)")
    add_unit_options(parser)
    parser.add_argument(
        "--predict-durations",
        action="store_true",
        help="let the vocoder say how long each unit lasts, not the recording",
    )
    add_vocoder_options(parser, device=False)
    add_shard_option(parser)
    parser.add_argument(
        "--batch-seconds",
        type=float,
        help="encode recordings of like length together, up to this many seconds (default: 0 on a CPU, 480 on a GPU)",
    )
    parser.add_argument("--workers", type=int, default=2, help="threads that read ahead (default: %(default)s)")
    parser.add_argument(
        "--page", type=Path, metavar="HTML", help="write a page with recordings beside what became of them"
    )
    parser.add_argument("--page-items", type=int, default=6, help="recordings on the page (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace wav files of other recordings or settings")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    shard = find_shard(options.shard)
    if options.workers < 1 or options.page_items < 1 or (options.batch_seconds or 0) < 0:
        raise InputError("--workers, --page-items and --batch-seconds must be positive")
    from tqdm import tqdm

    from speechdlm_ext.io.progress import follow
    from speechdlm_ext.io.recordings import read_manifest
    from speechdlm_ext.units.pipeline import choose_units
    from speechdlm_ext.vocoders.resynthesize import resynthesize

    rows = read_manifest(options.manifest)
    choice = choose_units(options)
    vocoder = build_vocoder(options, choice.codebook)
    batch = options.batch_seconds
    if batch is None:
        batch = 480.0 if choice.encoder.device.type == "cuda" else 0.0
    made = resynthesize(
        rows,
        options.dataset,
        choice,
        vocoder,
        options.output_dir,
        shard,
        options.overwrite,
        options.predict_durations,
        batch,
        options.workers,
        progress=lambda items, seconds: follow(items, seconds, "resynthesis", tqdm.write),
        say=tqdm.write,
    )
    left_out = f", {len(made.left_out)} left out" if made.left_out else ""
    print(f"{len(made.paths)} wav files{left_out}, {made.seconds / 3600:.3f} h made now: "
          f"{options.output_dir / options.dataset}")  # fmt: skip
    if options.page:
        from speechdlm_ext.io.recordings import audio_paths
        from speechdlm_ext.report.listening import write_listening_page

        there = [row for row in rows if row["id"] in made.paths]
        count = min(options.page_items, len(there))
        shown = [there[number * len(there) // count] for number in range(count)]
        lead = (
            f"{choice.codebook.units} units at {choice.codebook.frame_rate:g} Hz, duration penalty "
            f"{options.duration_penalty}, vocoder {options.vocoder}. The first 20 s of each recording."
        )
        pairs = [(str(row["id"]), audio_paths(row), made.paths[row["id"]]) for row in shown]
        write_listening_page(options.page, f"{options.dataset}, resynthesized", lead, pairs, vocoder.sample_rate)
        print(options.page)


if __name__ == "__main__":
    run_command(main)
