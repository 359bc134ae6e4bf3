"""Make the vocabulary of a recogniser from the texts of manifests: characters, or pieces of sentencepiece."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, nargs="+", help='JSON lines with "text"')
    parser.add_argument(
        "folder", type=Path,
        help="to write: dict.ltr.txt (fairseq's dictionary), and NeMo's tokenizer.model, tokenizer.vocab, vocab.txt",
    )  # fmt: skip
    parser.add_argument(
        "--kind", choices=("char", "bpe", "unigram"), default="char", help="of symbols (default: %(default)s)"
    )
    parser.add_argument(
        "--vocab-size", type=int, default=0, help="number of pieces, <unk> included; needed for bpe and unigram"
    )
    parser.add_argument(
        "--normalisation", choices=("none", "words"), default="none",
        help="none: texts as they are; words: lower case without punctuation, see docs/speech_recognition.md "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing vocabulary")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if options.kind != "char" and options.vocab_size < 2:
        raise InputError(f"--kind {options.kind}: pass --vocab-size, at least 2")
    if options.kind == "char" and options.vocab_size:
        raise InputError("--vocab-size is for --kind bpe and unigram: characters are as many as the texts have")
    if (options.folder / "dict.ltr.txt").exists() and not options.overwrite:
        raise InputError(f"{options.folder / 'dict.ltr.txt'} exists already: pass --overwrite to replace it")
    from speechdlm_ext.asr.text_tokenizer import manifest_texts, train_tokenizer

    texts = manifest_texts(options.manifest)
    tokenizer, counts = train_tokenizer(texts, options.kind, options.vocab_size, options.normalisation)
    tokenizer.save(options.folder, counts)
    print(f"{len(tokenizer.symbols)} symbols, {counts.total()} in the texts: {options.folder}")


if __name__ == "__main__":
    run_command(main)
