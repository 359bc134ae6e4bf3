"""Small language models in the form of KenLM's text files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_arpa(path: Path, words: Mapping[str, float]) -> Path:
    """Words with their log10 probabilities, the same at the beginning of a sentence (KenLM needs bigrams)."""
    singles = ["-1.0\t<unk>", "-99\t<s>\t0", "-1.0\t</s>", *(f"{value}\t{word}\t0" for word, value in words.items())]
    pairs = [f"{value}\t<s> {word}" for word, value in words.items()]
    counts = [f"ngram 1={len(singles)}", f"ngram 2={len(pairs)}"]
    parts = ["\\data\\", *counts, "", "\\1-grams:", *singles, "", "\\2-grams:", *pairs, "", "\\end\\", ""]
    path.write_text("\n".join(parts))
    return path
