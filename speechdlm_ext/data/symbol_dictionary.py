"""Symbols of a recogniser, or labels of a classifier, in place of fairseq's dictionary in its commands."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.asr.text_tokenizer import TextTokenizer


class SymbolDictionary:
    """Ids 0 to V - 1 are the symbols, as in NeMo's models; V is CTC's blank, and the padding of targets.

    Args:
        symbols: V of them.
        tokenizer: that makes text of them; None joins them with spaces.
    """

    nspecial = 0

    def __init__(self, symbols: Sequence[str], tokenizer: TextTokenizer | None = None) -> None:
        self.symbols, self.tokenizer = tuple(symbols), tokenizer

    def __len__(self) -> int:
        return len(self.symbols) + 1

    def pad(self) -> int:
        """Padding, which is the blank's id: no target has a blank."""
        return len(self.symbols)

    def unk(self) -> int:
        """The id of nothing."""
        return -1

    eos = bos = unk

    def text(self, ids: Sequence[int]) -> str:
        """The text of symbols."""
        symbols = [self.symbols[i] for i in ids if i < len(self.symbols)]
        return self.tokenizer.join(symbols) if self.tokenizer else " ".join(symbols)

    def string(self, tensor: Tensor, bpe_symbol: Any = None, escape_unk: bool = False,
               extra_symbols_to_ignore: Collection[int] | None = None, **kwargs: Any) -> str:  # fmt: skip
        """The text of a row of ids, as fairseq's commands ask for it."""
        return self.text(torch.as_tensor(tensor).tolist())

    def encode_line(self, line: str, *args: Any, **kwargs: Any) -> Tensor:
        """The ids of a text."""
        number = {symbol: place for place, symbol in enumerate(self.symbols)}
        symbols = self.tokenizer.split(line) if self.tokenizer else line.split()
        return torch.tensor([number[symbol] for symbol in symbols if symbol in number], dtype=torch.int)
