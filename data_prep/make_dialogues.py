"""Generate synthetic two-channel dialogues at 16 kHz, with a manifest and ground-truth segmentation (RTTM)."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.commands.old_names import add_old_names
from speechdlm_ext.errors import run_command
from speechdlm_ext.io.pool import available_cores


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path, help="gets the recordings, manifest.jsonl and dialogues.rttm")
    parser.add_argument("--minutes", type=float, default=12, help="of audio in all (default: %(default)s)")
    parser.add_argument(
        "--dialogue-seconds", type=float, default=60, help="length of a dialogue (default: %(default)s)"
    )
    parser.add_argument(
        "--noise-floor",
        type=float,
        nargs=2,
        default=(-72.0, -60.0),
        metavar="DB",
        help="range of the channels' noise levels, dB re full scale; speech is at -26 (default: -72 -60)",
    )
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same audio (default: 1)")
    parser.add_argument("--voices", type=int, default=4, help="espeak-ng voices, 2 to 4 (default: %(default)s)")
    parser.add_argument(
        "--speech", type=Path, metavar="FOLDER", help="mono recordings, cut at their pauses, instead of espeak-ng"
    )
    parser.add_argument(
        "--num-workers", type=int, default=available_cores(), help="processes; the result is the same for any number"
    )
    add_old_names(parser, {"--conversation-seconds": "--dialogue-seconds", "--workers": "--num-workers"})
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.synthetic.corpus import CorpusOptions, simulate_corpus
    from speechdlm_ext.synthetic.espeak import EspeakSource
    from speechdlm_ext.synthetic.recorded_speech import RecordingSource

    seconds = min(options.dialogue_seconds, max(5.0, 60 * options.minutes))
    noise = (min(options.noise_floor), max(options.noise_floor))
    corpus = CorpusOptions(minutes=options.minutes, seconds=seconds, seed=options.seed, noise_levels=noise)
    source = RecordingSource(options.speech) if options.speech else EspeakSource(options.voices)
    manifest = simulate_corpus(options.out_dir, source, corpus, max(1, options.num_workers))
    print(f"{corpus.count} dialogues of {corpus.seconds:g} s: {manifest}")


if __name__ == "__main__":
    run_command(main)
