"""Measure how true the figures of turn-taking are by each detector of speech, on made conversations of known truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Prints a Markdown table for each detector; docs/evaluation.md says what is in it."
    )
    voices = parser.add_mutually_exclusive_group()
    voices.add_argument("--speech", type=Path, metavar="FOLDER", help="mono recordings, as of make_dialogues.py")
    voices.add_argument("--voices", nargs="+", metavar="NAME", help="of espeak-ng, two or more (default: all)")
    parser.add_argument("--minutes", type=float, default=20, help="of conversation in each setting (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--settings", nargs="+", metavar="TEXT", help="those whose names have it (default: all)")
    parser.add_argument("--detectors", nargs="+", choices=("silero", "energy"), default=["silero", "energy"])
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.errors import InputError
    from speechdlm_ext.evaluation.detection_accuracy import SETTINGS, measure, table_head, table_row
    from speechdlm_ext.synthetic.espeak import EspeakSource
    from speechdlm_ext.synthetic.recorded_speech import RecordingSource

    source = RecordingSource(options.speech) if options.speech else EspeakSource(options.voices or 4)
    wanted = [name for name in SETTINGS if not options.settings or any(text in name for text in options.settings)]
    if not wanted:
        raise InputError(f"--settings {' '.join(options.settings)}: there are {'; '.join(SETTINGS)}")
    rows: dict[str, list[str]] = {name: table_head() for name in options.detectors}
    for name in tqdm(wanted, disable=None, unit="setting"):
        seed = [options.seed, list(SETTINGS).index(name)]
        found = measure(source, SETTINGS[name], seed, max(1, round(options.minutes)), detectors=options.detectors)
        for detector, accuracy in found.items():
            rows[detector].append(table_row(name, accuracy))
    for detector, lines in rows.items():
        print(f"\n{detector}\n\n" + "\n".join(lines))


if __name__ == "__main__":
    run_command(main)
