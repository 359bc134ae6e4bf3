"""Convert a codebook that others have published into one of ours, which says which encoder it belongs to."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.commands.units import add_encoder_options, encoder_options
from speechdlm_ext.encoders.base import ENCODERS
from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Nothing in CODEBOOK is executed: a file that asks for it is refused."
    )
    parser.add_argument(
        "codebook",
        type=Path,
        help='k-means of scikit-learn (joblib, pickle), torch.save({"codebook": (K, D)}) as DP-SLM has them, or '
        '{"cluster_centers_": (K, D)}, or a .npy table',
    )
    parser.add_argument("converted", type=Path, help="safetensors file to write")
    add_encoder_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a codebook that is there")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if options.encoder is None:
        raise InputError(f"pass --encoder, whose features the codebook was made from: {', '.join(ENCODERS)}")
    if options.converted.exists() and not options.overwrite:
        raise InputError(f"{options.converted} exists already: pass --overwrite to replace it")
    from speechdlm_ext.encoders.base import build_encoder
    from speechdlm_ext.units.codebook_files import load_codebook

    codebook = load_codebook(options.codebook)
    codebook = codebook.for_encoder(build_encoder(options.encoder, encoder_options(options)))
    codebook.save(options.converted)
    print(f"codebook {codebook.fingerprint}, {codebook.num_units} x {codebook.dim}: {options.converted}")


if __name__ == "__main__":
    run_command(main)
