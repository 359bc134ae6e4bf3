"""Compare speech detectors with the annotation of a corpus: F1, detection error rate, rates of turn-taking events."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    from speechdlm_ext.vad import detector_help

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"Detectors: {detector_help()}. Prints a Markdown table; docs/evaluation.md says what is in it.".replace(
            "%", "%%"
        ),
    )
    parser.add_argument("corpus", type=Path, help="folder of recordings, or manifest, of any number of channels")
    parser.add_argument("--rttm", type=Path, nargs="+", default=[], metavar="FILE", help="default: in or beside it")
    parser.add_argument(
        "--annotation", default="rttm", metavar="SOURCE", help="rttm, or field:NAME of the manifest (default: rttm)"
    )
    parser.add_argument(
        "--vad",
        "--detectors",
        dest="vad",
        nargs="+",
        default=["silero", "energy"],
        metavar="DETECTOR",
        help="with options, as silero:pad=0.2; rttm:FILE is what another program found (default: silero energy)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.evaluation.corpus import read_corpus
    from speechdlm_ext.evaluation.detection_accuracy import detection_table, measure_detectors
    from speechdlm_ext.io.config import write_json

    bar = partial(tqdm, unit="recording", disable=None)
    figures = measure_detectors(
        read_corpus(options.corpus),
        list(dict.fromkeys(options.vad)),
        options.annotation,
        options.rttm,
        progress=lambda items, total: bar(items, total=total),
    )
    print(detection_table(figures))
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    run_command(main)
