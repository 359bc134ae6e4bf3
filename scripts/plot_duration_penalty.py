"""Show what the duration penalty does: a figure of one recording with the boundaries of units, and a table of all."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="as data_prep/make_manifest.py writes it; the table is of all")
    parser.add_argument("figure", type=Path, help="PNG file to write")
    parser.add_argument("--codebook", type=Path, required=True, help="as data_prep/train_codebook.py writes it")
    parser.add_argument(
        "--penalties",
        type=float,
        nargs="+",
        default=[0, 300, 1000, 3000, 10000],
        metavar="PENALTY",
        help="in squared distance of the encoder's features (default: %(default)s)",
    )
    parser.add_argument("--num-neighbors", type=int, metavar="N", help="use only the N nearest codes of each frame")
    parser.add_argument("--id", help="the recording in the figure, its first channel (default: the first)")
    parser.add_argument(
        "--span", type=float, nargs=2, default=(0.0, 2.0), metavar=("FROM", "TO"), help="shown, in s (default: 0 2)"
    )
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    import torch

    from speechdlm_ext.encoders import LogMelEncoder
    from speechdlm_ext.evaluation.duration_penalty import draw_boundaries, penalty_table, units_by_penalty
    from speechdlm_ext.io.recordings import read_manifest, recording_blocks
    from speechdlm_ext.units import load_codebook

    codebook = load_codebook(options.codebook)
    rows = read_manifest(options.manifest)
    chosen = [row for row in rows if options.id in (None, row["id"])][:1]
    if not chosen:
        raise InputError(f"{options.manifest}: no recording has the id {options.id}")
    wave = torch.cat([block[0] for block in recording_blocks(chosen[0], LogMelEncoder.sample_rate)])
    shown = units_by_penalty(chosen, codebook, options.penalties, options.num_neighbors)
    first = {penalty: channels[0] for penalty, channels in shown.items()}
    draw_boundaries(wave, first, codebook.frame_rate, tuple(options.span), options.figure)
    units = units_by_penalty(rows, codebook, options.penalties, options.num_neighbors)
    print(penalty_table(units, codebook.frame_rate))


if __name__ == "__main__":
    run_command(main)
