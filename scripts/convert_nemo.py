"""Convert a convolutional speech model: NeMo's .nemo file to a checkpoint of fairseq-train, or back."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a .nemo file, a checkpoint of fairseq-train, or the name of a published model")
    parser.add_argument("output", type=Path, help="to write: .nemo for NeMo, .pt for fairseq's commands")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if options.output.suffix not in (".nemo", ".pt"):
        raise InputError(f"{options.output}: expected a name that ends in .nemo or .pt")
    from speechdlm_ext.asr.speech_model import load_speech_model
    from speechdlm_ext.checkpoints.conv_speech import write_speech_checkpoint, write_speech_nemo

    model = load_speech_model(options.source)
    write = write_speech_nemo if options.output.suffix == ".nemo" else write_speech_checkpoint
    write(model, options.output, options.overwrite)
    print(f"{model.network.target}, {len(model.symbols)} symbols: {options.output}")


if __name__ == "__main__":
    run_command(main)
