"""Train a k-means codebook on the frames of the recordings in a manifest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="as data_prep/make_manifest.py writes it")
    parser.add_argument("codebook", type=Path, help="safetensors file to write")
    parser.add_argument("--encoder", default="logmel", help="what makes the features (default: %(default)s)")
    parser.add_argument("--encoder-options", default="{}", metavar="JSON", help='such as {"n_mels": 40}')
    parser.add_argument("--units", type=int, default=100, help="number of centroids K (default: %(default)s)")
    parser.add_argument(
        "--max-frames", type=int, default=300_000, help="frames to train on, the same share of every recording"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the frames and first centroids (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a codebook that is there")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    try:
        encoder_options = json.loads(options.encoder_options)
    except ValueError:
        raise InputError(f"--encoder-options {options.encoder_options}: not JSON") from None
    if options.codebook.exists() and not options.overwrite:
        raise InputError(f"{options.codebook} is there already: pass --overwrite to replace it")
    from tqdm import tqdm

    from speechdlm_ext.units.encoder import build_encoder
    from speechdlm_ext.units.kmeans import sample_features, train_codebook
    from speechdlm_ext.units.recordings import read_manifest

    encoder = build_encoder(options.encoder, encoder_options)
    rows = read_manifest(options.manifest)
    features, levels = sample_features(
        rows,
        encoder,
        options.max_frames,
        options.seed,
        progress=lambda items: tqdm(items, desc="features", unit="recording", disable=None),
    )
    print(f"k-means: {options.units} units from {len(features)} frames of width {encoder.dim}", flush=True)
    codebook = train_codebook(features, encoder, options.units, options.seed, levels)
    codebook.save(options.codebook)
    print(f"codebook {codebook.fingerprint}, {codebook.units} x {codebook.dim}: {options.codebook}")


if __name__ == "__main__":
    run_command(main)
