"""Turn a checkpoint of a trained unit_hifigan into a vocoder in the published form."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of fairseq-train --task unit_hifigan_task")
    parser.add_argument(
        "folder", type=Path, help="gets generator.pt, config.json and, where there are several, speakers.txt"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a vocoder that is there")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.checkpoints.unit_hifigan import export_vocoder

    print(export_vocoder(options.checkpoint, options.folder, options.overwrite))


if __name__ == "__main__":
    run_command(main)
