"""Write a language model and its tokenizer as a folder that loads in seconds: a .gguf file takes minutes each time."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a .gguf file, a folder, or a name on the Hugging Face hub")
    parser.add_argument("folder", type=Path, help="to write; what pretrained_llm of a configuration names")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if (options.folder / "config.json").exists():
        raise InputError(f"{options.folder}: has a model already; choose another folder")
    from speechdlm_ext.data.llm_tokenizer import load_tokenizer
    from speechdlm_ext.modules.backbone import load_backbone, save_backbone

    llm = load_backbone(options.source)
    options.folder.mkdir(parents=True, exist_ok=True)
    load_tokenizer(options.source).save(options.folder)
    save_backbone(llm, options.folder)
    print(f"{sum(one.numel() for one in llm.parameters()) / 1e6:.1f} million parameters: {options.folder}")


if __name__ == "__main__":
    run_command(main)
