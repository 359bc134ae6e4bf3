"""Texts to symbols and back: characters, or pieces of sentencepiece; trained from texts, kept in a folder.

The folder has what fairseq and NeMo expect: ``dict.ltr.txt`` (fairseq's dictionary) and, for pieces,
``tokenizer.model``, ``tokenizer.vocab`` and ``vocab.txt`` (NeMo's folder). ``tokenizer.json`` says how texts are
normalised.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import iter_jsonl
from speechdlm_ext.metrics.words import NORMALISATION, normalise

KINDS = ("char", "bpe", "unigram")
NORMALISATIONS = {"none": "texts as they are, white space joined", "words": NORMALISATION}
WORD_BOUNDARY = "|"  # fairseq's sign between words
_SPACE = "▁"  # sentencepiece's
_UNKNOWN = "<unk>"


class TextTokenizer(ABC):
    """Splits texts into symbols and joins them.

    Attributes:
        symbols: in the order of their ids in NeMo's models, without the blank.
        normalisation: what is done with texts first, a key of ``NORMALISATIONS``.
    """

    kind: str
    symbols: tuple[str, ...]
    normalisation: str = "none"

    def prepare(self, text: str) -> str:
        """The text as it is split."""
        return normalise(text) if self.normalisation == "words" else " ".join(text.split())

    @abstractmethod
    def split(self, text: str) -> list[str]:
        """The symbols of a text; what is outside the vocabulary is ``<unk>``."""

    @abstractmethod
    def join(self, symbols: Iterable[str]) -> str:
        """The text of symbols."""

    @abstractmethod
    def unknown(self, text: str) -> Counter[str]:
        """How often each character outside the vocabulary occurs in a text."""

    def save(self, folder: Path, counts: Counter[str] | None = None) -> None:
        """Write the folder; ``counts`` are how often each symbol was seen."""
        folder.mkdir(parents=True, exist_ok=True)
        seen = counts or Counter()
        with atomic_write(folder / "dict.ltr.txt") as file:
            file.writelines(f"{symbol} {seen[symbol]}\n" for symbol in self.symbols if symbol != _UNKNOWN)
        with atomic_write(folder / "tokenizer.json") as file:
            json.dump({"kind": self.kind, "normalisation": self.normalisation}, file)


class CharacterTokenizer(TextTokenizer):
    """Characters; the space is ``|``, as in fairseq's ``.ltr`` files.

    Args:
        symbols: one character each.
        normalisation: a key of ``NORMALISATIONS``.

    Raises:
        InputError: a symbol is longer than a character.
    """

    kind = "char"

    def __init__(self, symbols: Sequence[str], normalisation: str = "none") -> None:
        long = [symbol for symbol in symbols if len(symbol) != 1]
        if long:
            raise InputError(f"a vocabulary of characters has {long[0]!r}: expected one character a symbol")
        self.symbols = tuple(WORD_BOUNDARY if symbol == " " else symbol for symbol in symbols)
        self.normalisation = normalisation
        self._known = frozenset(self.symbols)

    def split(self, text: str) -> list[str]:
        """See :meth:`TextTokenizer.split`."""
        found = self.prepare(text).replace(" ", WORD_BOUNDARY)
        return [symbol if symbol in self._known else _UNKNOWN for symbol in found]

    def join(self, symbols: Iterable[str]) -> str:
        """See :meth:`TextTokenizer.join`."""
        return " ".join("".join(symbols).replace(WORD_BOUNDARY, " ").split())

    def unknown(self, text: str) -> Counter[str]:
        """See :meth:`TextTokenizer.unknown`."""
        return Counter(c for c in self.prepare(text).replace(" ", WORD_BOUNDARY) if c not in self._known)


class PieceTokenizer(TextTokenizer):
    """Pieces of a sentencepiece model.

    Args:
        model: the bytes of its file.
        normalisation: a key of ``NORMALISATIONS``.
        source: what the model is called in messages.

    Raises:
        InputError: it is not a model of sentencepiece.
    """

    def __init__(self, model: bytes, normalisation: str = "none", source: str = "the tokenizer") -> None:
        import sentencepiece

        self._model = sentencepiece.SentencePieceProcessor()
        try:
            if not model:
                raise RuntimeError("it is empty")
            self._model.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise InputError(f"{source}: not a model of sentencepiece ({one_line(error)[:200]})") from None
        self.model, self.normalisation = model, normalisation
        self.symbols = tuple(self._model.id_to_piece(list(range(self._model.get_piece_size()))))
        self.kind = "unigram" if any(self._model.get_score(i) % 1 for i in range(len(self.symbols))) else "bpe"

    def split(self, text: str) -> list[str]:
        """See :meth:`TextTokenizer.split`."""
        return [self.symbols[index] for index in self._model.encode(self.prepare(text))]

    def join(self, symbols: Iterable[str]) -> str:
        """See :meth:`TextTokenizer.join`."""
        return str(self._model.decode_pieces(list(symbols)))

    def unknown(self, text: str) -> Counter[str]:
        """See :meth:`TextTokenizer.unknown`."""
        pieces, unknown = self._model.encode_as_pieces(self.prepare(text)), self._model.unk_id()
        strange = (piece for piece in pieces if self._model.piece_to_id(piece) == unknown)
        return Counter(c for piece in strange for c in piece if c != _SPACE)

    def save(self, folder: Path, counts: Counter[str] | None = None) -> None:
        """See :meth:`TextTokenizer.save`; with NeMo's three files."""
        super().save(folder, counts)
        with atomic_write(folder / "tokenizer.model", "wb") as file:
            file.write(self.model)
        with atomic_write(folder / "tokenizer.vocab") as file:
            file.writelines(f"{s}\t{self._model.get_score(i):.6g}\n" for i, s in enumerate(self.symbols))
        with atomic_write(folder / "vocab.txt") as file:
            file.write(word_pieces(self.symbols))


def word_pieces(symbols: Sequence[str]) -> str:
    """The lines of NeMo's ``vocab.txt``."""
    return "".join(f"{_word_piece(symbol)}\n" for symbol in symbols if symbol != _UNKNOWN)


def _word_piece(symbol: str) -> str:
    """NeMo's ``vocab.txt`` marks pieces within words by ``##`` instead of those that begin words."""
    if symbol == _SPACE:
        return symbol
    return symbol[1:] if symbol.startswith(_SPACE) else f"##{symbol}"


def load_tokenizer(folder: Path) -> TextTokenizer:
    """Read a folder that this module, NeMo (``tokenizer.model``) or fairseq (``dict.ltr.txt``) wrote.

    Raises:
        InputError: none of these is there, or it is damaged.
    """
    settings: dict[str, Any] = {}
    if (folder / "tokenizer.json").is_file():
        try:
            settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            normalisation = settings.get("normalisation", "none")
        except (ValueError, AttributeError):
            raise InputError(f"{folder / 'tokenizer.json'}: not a JSON object") from None
        if normalisation not in NORMALISATIONS:
            raise InputError(f"{folder / 'tokenizer.json'}: normalisation {normalisation!r} is unknown")
    normalisation = settings.get("normalisation", "none")
    model, dictionary = folder / "tokenizer.model", folder / "dict.ltr.txt"
    if model.is_file():
        return PieceTokenizer(model.read_bytes(), normalisation, str(model))
    if not dictionary.is_file():
        raise InputError(f"{folder} has neither tokenizer.model nor dict.ltr.txt: see data_prep/train_tokenizer.py")
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    return CharacterTokenizer([line.rsplit(" ", 1)[0] for line in lines if line], normalisation)


def train_tokenizer(
    texts: Iterable[str], kind: str = "char", size: int = 0, normalisation: str = "none"
) -> tuple[TextTokenizer, Counter[str]]:
    """A vocabulary from texts.

    Args:
        texts: one utterance each.
        kind: ``char`` (sorted by code point), ``bpe`` or ``unigram``.
        size: number of pieces, ``<unk>`` included; not used for characters.
        normalisation: a key of ``NORMALISATIONS``.

    Returns:
        The tokenizer, and how often it finds each symbol in the texts.

    Raises:
        InputError: there is no text, or there are not so many pieces.
    """
    plain = CharacterTokenizer((), normalisation)
    lines = [line for line in map(plain.prepare, texts) if line]
    if not lines:
        raise InputError("no texts: a vocabulary is made from at least one")
    tokenizer: TextTokenizer
    if kind == "char":
        tokenizer = CharacterTokenizer(sorted({c for line in lines for c in line}), normalisation)
    else:
        options: dict[str, Any] = {"character_coverage": 1.0, "normalization_rule_name": "identity"}
        options |= {"bos_id": -1, "eos_id": -1, "pad_id": -1, "max_sentence_length": 1 << 20}
        tokenizer = PieceTokenizer(train_pieces(lines, kind, size, **options), normalisation)
    return tokenizer, Counter(symbol for line in lines for symbol in tokenizer.split(line))


def train_pieces(lines: Iterable[str], kind: str, size: int, **options: Any) -> bytes:
    """A sentencepiece model of so many pieces; raises :class:`InputError` where the lines do not have them.

    Args:
        options: of ``SentencePieceTrainer``.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type=kind, vocab_size=size, minloglevel=2,
            **options,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--vocab-size {size}: sentencepiece refuses it ({one_line(error)[-200:]})") from None
    return model.getvalue()


def manifest_texts(paths: Sequence[Path]) -> Iterator[str]:
    """The texts of JSONL manifests, in order.

    Raises:
        InputError: a line has no text.
    """
    for path in paths:
        for line in iter_jsonl(path):
            text = line.row.get("text")
            if not isinstance(text, str):
                raise InputError(f'{path}, line {line.number}: has no "text"')
            yield text
