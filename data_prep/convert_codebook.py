"""Convert a codebook that others have published into one of ours, which says which encoder it belongs to."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.units.pipeline import add_encoder_options, encoder_options


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Nothing in CODEBOOK is executed: a file that asks for it is refused."
    )
    parser.add_argument(
        "codebook",
        type=Path,
        help='k-means of scikit-learn (joblib, pickle), or torch.save({"codebook": (K, D)}) as DP-SLM has them',
    )
    parser.add_argument("converted", type=Path, help="safetensors file to write")
    add_encoder_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a codebook that is there")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if options.encoder is None:
        raise InputError("pass --encoder, whose features the codebook was made from: logmel, hubert or wavlm")
    if options.converted.exists() and not options.overwrite:
        raise InputError(f"{options.converted} is there already: pass --overwrite to replace it")
    from speechdlm_ext.encoders.base import build_encoder
    from speechdlm_ext.units.codebook_files import load_codebook

    codebook = load_codebook(options.codebook)
    codebook = codebook.for_encoder(build_encoder(options.encoder, encoder_options(options)))
    codebook.save(options.converted)
    print(f"codebook {codebook.fingerprint}, {codebook.units} x {codebook.dim}: {options.converted}")


if __name__ == "__main__":
    run_command(main)
