"""How well resynthesis keeps speech and silence where they were: the recordings of a manifest beside their sound."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="A line for each folder; chance is the better of two constant answers, all speech and all silence.",
    )
    parser.add_argument("manifest", type=Path, help="as it was given to scripts/resynthesize.py")
    parser.add_argument("dataset", help="likewise")
    add_renamed(
        parser, "--output", "--output-dir", type=Path, default=Path("output"), help="likewise (default: %(default)s)"
    )
    parser.add_argument("--vad", default="energy", help="detector of speech in audio (default: %(default)s)")
    parser.add_argument(
        "--worst", type=int, default=5, help="channels to name, the lowest first (default: %(default)s)"
    )
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if options.worst < 0:
        raise InputError(f"--worst {options.worst}: 0 or more is expected")
    from tqdm import tqdm

    from speechdlm_ext.io.recordings import read_manifest
    from speechdlm_ext.metrics.agreement import Agreement, agreement_table
    from speechdlm_ext.vad import build_detector
    from speechdlm_ext.vocoders.agreement import compare_resynthesis

    rows = read_manifest(options.manifest)
    listen = build_detector(options.vad).detect
    groups: dict[str, list[Agreement]] = defaultdict(list)
    named = []
    compared = compare_resynthesis(rows, options.dataset, options.output, listen)
    for name, folder, channels in tqdm(compared, total=len(rows), unit="recording", disable=None):
        groups[folder] += channels
        named += [(one.share, f"{name}, channel {place}", one) for place, one in enumerate(channels)]
    print(agreement_table(groups))
    for share, name, one in sorted(named, key=lambda item: item[0])[: options.worst]:
        print(f"{share:.1%} {name}: {one.speech:.0%} speech, {one.made_speech:.0%} in what was made")


if __name__ == "__main__":
    run_command(main)
