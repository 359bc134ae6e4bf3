"""Recordings to units and back to sound: what a codebook and a vocoder keep of speech, for whole data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.commands.page import add_page_options, check_page_options, spread
from speechdlm_ext.commands.presets import add_preset_options, parse_with_preset
from speechdlm_ext.commands.units import add_unit_options, add_worker_option, load_pipeline
from speechdlm_ext.commands.vocoder import add_vocoder_options, vocoder_from
from speechdlm_ext.errors import run_command
from speechdlm_ext.io.sharding import add_shard_option, check_division, find_shard, leave_division


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Stopped anywhere and started again, it makes the files that are missing."
    )
    parser.add_argument("manifest", type=Path, help="as data_prep/make_manifest.py writes it")
    parser.add_argument(
        "dataset",
        help="files go to OUTPUT/DATASET and there into folders as those that follow DATASET in the recordings' "
        "paths; if it is not in all of them, as those below the folder that they have in common",
    )
    add_renamed(
        parser, "--output", "--output-dir", type=Path, default=Path("output"), help="folder (default: %(default)s)"
    )
    add_preset_options(parser)
    add_unit_options(parser, required=False)
    parser.add_argument(
        "--predict-durations",
        action="store_true",
        help="let the vocoder predict how long each unit lasts, in place of the recording",
    )
    parser.add_argument(
        "--samples", type=int, default=1, help="wav files of each recording, of a vocoder that samples (default: 1)"
    )
    add_vocoder_options(parser, device=False)
    add_shard_option(parser)
    add_worker_option(parser)
    add_page_options(parser, "write a page with recordings beside their resynthesis")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing wav files of other recordings or settings"
    )
    return parser


def main() -> None:
    """Run the command."""
    options = parse_with_preset(get_parser())
    shard = find_shard(options.shard)
    check_page_options(options)
    from tqdm import tqdm

    from speechdlm_ext.io.progress import follow
    from speechdlm_ext.io.recordings import digest_recordings, read_manifest
    from speechdlm_ext.vocoders.resynthesize import resynthesize

    rows = read_manifest(options.manifest)
    division = options.output / options.dataset / ".recordings"
    if shard is not None:
        check_division(division, shard, digest_recordings(rows), options.manifest, options.overwrite, joined=False)
    pipeline = load_pipeline(options)
    vocoder = vocoder_from(options, pipeline.codebook, lambda: pipeline)
    made = resynthesize(
        rows,
        options.dataset,
        pipeline,
        vocoder,
        options.output,
        shard,
        options.overwrite,
        options.predict_durations,
        options.samples,
        options.batch_seconds,
        options.num_workers,
        progress=lambda items, seconds: follow(items, seconds, "resynthesis", tqdm.write),
        say=tqdm.write,
    )
    leave_division(division, shard)
    skipped = f", {len(made.skipped)} skipped" if made.skipped else ""
    print(f"{len(made.rows) * options.samples} wav files{skipped}, {made.seconds / 3600:.3f} h made now: "
          f"{options.output / options.dataset}")  # fmt: skip
    if options.html:
        from speechdlm_ext.io.recordings import audio_paths
        from speechdlm_ext.report.listening import write_listening_page

        shown = spread(made.rows, options.html_items)
        lead = (
            f"{pipeline.codebook.num_units} units at {pipeline.codebook.frame_rate:g} Hz, duration penalty "
            f"{options.duration_penalty}, vocoder {options.vocoder}. The first 20 s of each recording."
        )
        pairs = [(str(row["id"]), audio_paths(row), made.files(row)[0]) for row in shown]
        write_listening_page(options.html, f"{options.dataset}, resynthesized", lead, pairs, vocoder.sample_rate)
        print(options.html)


if __name__ == "__main__":
    run_command(main)
