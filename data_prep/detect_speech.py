"""Find speech in the recordings of a folder or a manifest: statistics in AMELA's columns, and a manifest with it."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard
from speechdlm_ext.vad import build_detector, detector_help


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it goes on with the recordings not done yet. Shards are joined by "
        "data_prep/merge_manifest.py OUTPUT.jsonl.",
    )
    parser.add_argument("source", type=Path, help="a folder of recordings, or a manifest")
    parser.add_argument(
        "output",
        type=Path,
        nargs="?",
        help="OUTPUT.csv and OUTPUT.jsonl are written, a line in OUTPUT.jsonl.errors for each recording that cannot be "
        "read; OUTPUT.jsonl.shard-I-of-N with --shard (default: metadata/<folder>_<date>)",
    )
    parser.add_argument("--vad", default="ten", metavar="NAME", help=f"{detector_help()} (default: ten, as published)")
    parser.add_argument("--threshold", type=float, help="of ten and silero: probability of speech (default: 0.5)")
    parser.add_argument("--hop", type=int, help="of ten: samples of a frame at 16 kHz, 256 or 160 (default: 256)")
    parser.add_argument("--min-speech", type=float, help="seconds: shorter speech is dropped (default: the detector's)")
    parser.add_argument(
        "--min-silence", type=float, help="seconds: shorter silences are bridged (default: the detector's; of ten 0)"
    )
    parser.add_argument(
        "--bridge",
        action="store_true",
        help="bridge silences shorter than 0.3 s less a tenth of the speech before, at least 0.1 s, as AMELA's later "
        "version does",
    )
    parser.add_argument("--num-workers", type=int, default=0, help="processes (default: one for each core)")
    add_shard_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace other results")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.vad.corpus import Detecting, default_output, detect_corpus, start_workers

    detector = build_detector(options.vad)
    if options.num_workers != 1:
        start_workers(detector)
    from tqdm import tqdm

    from speechdlm_ext.io.manifest import errors_path
    from speechdlm_ext.io.progress import count

    if detector.reads != "audio":
        raise InputError(f"--vad {options.vad}: it does not read audio; expected ten, silero or energy")
    given = {name: getattr(options, name) for name in ("threshold", "hop", "min_speech", "min_silence")}
    given = {name: value for name, value in given.items() if value is not None}
    unknown = given.keys() - {one.name for one in fields(detector)}
    if unknown:
        raise InputError(f"--{min(unknown).replace('_', '-')} is not an option of --vad {detector.name}")
    detecting = Detecting(replace(detector, **given), options.bridge)
    output = options.output or default_output(options.source)
    if output.suffix in (".csv", ".json", ".jsonl"):
        output = output.with_suffix("")
    shard = find_shard(options.shard, f"{output}.jsonl")
    made = detect_corpus(
        options.source,
        output,
        detecting,
        max(0, options.num_workers),
        shard,
        options.overwrite,
        progress=lambda items, number: count(items, number, "detecting", "file", tqdm.write),
        say=tqdm.write,
    )
    share = made.speech / made.channels if made.channels else 0.0
    done = made.recordings - made.failed
    which = "" if shard is None else f"shard {shard}: "
    files = f"{made.manifest}" if made.table is None else f"{made.table}, {made.manifest}"
    print(f"{which}{done} of {made.recordings} recordings, {made.seconds / 3600:.3f} h, {share:.1%} speech: {files}")
    if made.failed and made.table is not None:
        print(f"{made.failed} others, and why: {errors_path(made.manifest)}")


if __name__ == "__main__":
    run_command(main)
