"""Transcribe the recordings of a manifest: the same rows with "text", and words with times where they are known."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from speechdlm_ext.asr import USAGE, RecogniserOptions
from speechdlm_ext.asr.ctc_decoding import BeamOptions
from speechdlm_ext.commands.units import add_worker_option
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard
from speechdlm_ext.modules.devices import open_device
from speechdlm_ext.vad import detector_help


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Rows that have a text are skipped, and other fields stay. Stopped anywhere and started again, it goes "
        "on after the last batch. With --shard the results go to OUTPUT.shard-I-of-N, or MANIFEST.text.shard-I-of-N; "
        "data_prep/merge_manifest.py MANIFEST --in-place writes the latter into the manifest.",
    )
    parser.add_argument("manifest", type=Path, help="JSON lines with audio_filepath")
    parser.add_argument("output", type=Path, nargs="?", help="manifest to write")
    parser.add_argument("--in-place", action="store_true", help="write into MANIFEST itself, when all is done")
    parser.add_argument(
        "--check", action="store_true", help="recognise nothing; name the files without text, status 2 if there are any"
    )
    parser.add_argument("--asr", metavar="KIND:MODEL", help=f"recogniser: {USAGE}")
    parser.add_argument("--language", default="", help="of the speech, for recognisers that are told it (Whisper: en)")
    parser.add_argument("--prompt", default="", help="text that comes before, for recognisers that take one (Whisper)")
    parser.add_argument(
        "--lm-model", default="", metavar="FILE", help="CTC: beam search with this KenLM file over words"
    )
    parser.add_argument(
        "--lexicon",
        default="",
        metavar="FILE",
        help="CTC: words that can be recognised, one a line (default: of the ARPA)",
    )
    parser.add_argument("--beam", type=int, default=0, metavar="N", help="CTC: hypotheses that beam search keeps (50)")
    parser.add_argument("--lm-weight", type=float, default=1.0, help="of the language model (default: %(default)s)")
    parser.add_argument("--word-score", type=float, default=0.0, help="added for each word (default: %(default)s)")
    parser.add_argument(
        "--asr-chunk-seconds",
        type=float,
        default=30.0,
        help="longest part recognised at once; longer recordings are cut at silences (default: %(default)s)",
    )
    parser.add_argument(
        "--vad",
        default="energy",
        metavar="NAME",
        help=f"finds these silences: none; {detector_help()} (default: energy)",
    )
    parser.add_argument(
        "--batch-seconds",
        type=float,
        help="recognise parts of like length together, up to this many seconds, halved where memory runs out; 0: each "
        "alone (default: 0 on a CPU, as fits into the free memory of a GPU)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one)")
    add_worker_option(parser)
    add_shard_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an output of other recordings")
    return parser


def main() -> int:
    """Run the command."""
    options = get_parser().parse_args()
    if options.check:
        return check(options.manifest)
    if (options.output is None) != options.in_place:
        raise InputError("pass either OUTPUT or --in-place")
    if options.asr is None:
        raise InputError(f"pass --asr: {USAGE}")
    if options.batch_seconds is not None and not options.batch_seconds >= 0:
        raise InputError(f"--batch-seconds {options.batch_seconds:g}: 0 or more is expected")
    from speechdlm_ext.asr.manifest_text import TextOptions, transcribe_manifest
    from speechdlm_ext.asr.text_rows import text_base

    shard = find_shard(options.shard, options.output or text_base(options.manifest))
    from tqdm import tqdm

    from speechdlm_ext.io.progress import follow

    beam = BeamOptions(options.lm_model, options.lexicon, options.beam, options.lm_weight, options.word_score)
    device = str(open_device(options.device))
    recogniser = RecogniserOptions(
        options.asr, options.asr_chunk_seconds, options.language, options.prompt, device, beam
    )
    start, seconds = time.monotonic(), 0.0

    def progress(items, total):  # type: ignore[no-untyped-def]  # as transcribe_manifest has it
        nonlocal start, seconds
        start = time.monotonic()
        for item in follow(items, total, "transcribing", tqdm.write):
            yield item
            seconds += item.seconds

    made = transcribe_manifest(
        options.manifest,
        options.output,
        TextOptions(recogniser, options.vad, options.batch_seconds, options.num_workers),
        shard,
        options.overwrite,
        progress,
        tqdm.write,
    )
    which = "" if shard is None else f"shard {shard}: "
    failed = f", {made.failed} could not be read ({made.errors})" if made.failed else ""
    print(f"{which}{made.had_text + made.transcribed} of {made.rows} recordings have a text{failed}: {made.path}")
    if seconds:
        elapsed = time.monotonic() - start
        print(f"{seconds:.1f} s of sound in {elapsed:.1f} s: {seconds / elapsed:.3g} × real time")
    return 0


def check(manifest: Path) -> int:
    """Print the files without text; 2 if there are any."""
    from speechdlm_ext.asr.text_rows import without_text

    count = 0
    for count, files in enumerate(without_text(manifest), 1):  # noqa: B007
        print(files)
    if count:
        raise InputError(f"{manifest}: {count} recordings have no text")
    print(f"{manifest}: all recordings have a text")
    return 0


if __name__ == "__main__":
    run_command(main)
