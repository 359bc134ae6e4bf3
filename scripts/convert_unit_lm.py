"""Convert unit language models between fairseq's checkpoints and the forms in which they are published."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source",
        help="a checkpoint of fairseq-train, a file of DP-SLM or its name (mistral-ulm-k-500-lmbda-600), or a folder "
        "of AMELA (config.json with model.safetensors or pytorch_model.bin)",
    )
    parser.add_argument("target", type=Path, help="the file to write; for amela, the folder")
    parser.add_argument(
        "--to",
        choices=("fairseq", "dpslm", "amela"),
        default="fairseq",
        help="fairseq: for fairseq's commands; dpslm: model_args and model_state_dict; amela: config.json and "
        "model.safetensors (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.checkpoints.dpslm import locate_unit_lm
    from speechdlm_ext.checkpoints.formats import read_model, write_model

    source = locate_unit_lm(options.source)
    state = read_model(source)
    for path in write_model(state, options.target, options.to, str(source), options.overwrite):
        print(path)


if __name__ == "__main__":
    run_command(main)
