"""Tokenizers of language models behind one interface with NeMo's names: transformers' and sentencepiece's."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from speechdlm_ext.errors import InputError, one_line, optional_import

logger = logging.getLogger(__name__)

SENTENCEPIECE = "tokenizer.model"
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")


class LLMTokenizer(ABC):
    """Text to ids and back.

    Attributes:
        bos_id, eos_id, unk_id: of the special tokens; None where there is none.
        pad_id: of the padding token, else of the unknown one, else 0.
        bos, eos: their text; empty where there is none.
    """

    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    pad_id: int
    bos: str = ""
    eos: str = ""

    @abstractmethod
    def __len__(self) -> int:
        """Number of tokens, added ones included."""

    @abstractmethod
    def text_to_ids(self, text: str) -> list[int]:
        """Ids of a text; special tokens in it are recognised, none are added."""

    @abstractmethod
    def ids_to_text(self, ids: Sequence[int] | Tensor) -> str:
        """The text of ids, without special tokens."""

    @abstractmethod
    def add_special_token(self, token: str) -> int:
        """The id of a special token, which is added at the end where it is new."""

    @abstractmethod
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write what :func:`load_tokenizer` reads."""

    @abstractmethod
    def pieces(self) -> Iterable[str]:
        """The tokens in the order of their ids, without added ones."""

    def fingerprint(self) -> str:
        """Tells tokenizers apart."""
        return hashlib.sha256("\n".join(self.pieces()).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def apply_chat_template(self, turns: Sequence[Mapping[str, str]], prompt: bool) -> str:
        """The text of a dialogue in the tokenizer's own format, with the beginning of an answer if ``prompt``.

        Raises:
            InputError: it has none.
        """
        raise InputError("this tokenizer has no chat template: choose a prompt_format")

    def _set_pad(self, pad: int | None) -> None:
        found = pad if pad is not None else self.unk_id
        if found is None:
            logger.warning("the tokenizer has neither a padding nor an unknown token: id 0 is used for padding")
        self.pad_id = found or 0


class TransformersTokenizer(LLMTokenizer):
    """A tokenizer of transformers, by folder, ``.gguf`` file, or name."""

    def __init__(self, source: str) -> None:
        with optional_import(f"{source}: its tokenizer needs transformers", "hf"):
            from transformers import AutoTokenizer
        options: dict[str, Any] = {"local_files_only": os.environ.get("SPEECHDLM_OFFLINE") == "1"}
        if source.endswith(".gguf"):
            options["gguf_file"] = os.path.basename(source)
            source = os.path.dirname(os.path.abspath(source))
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, **options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(f"{source}: no tokenizer ({one_line(error)[:300]})") from None
        special = self.tokenizer
        self.bos_id, self.eos_id, self.unk_id = special.bos_token_id, special.eos_token_id, special.unk_token_id
        self.bos, self.eos = special.bos_token or "", special.eos_token or ""
        self._set_pad(special.pad_token_id)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def text_to_ids(self, text: str) -> list[int]:
        """See :class:`LLMTokenizer`."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def ids_to_text(self, ids: Sequence[int] | Tensor) -> str:
        """See :class:`LLMTokenizer`."""
        text: str = self.tokenizer.decode(_plain(ids), skip_special_tokens=True)
        return text

    def add_special_token(self, token: str) -> int:
        """See :class:`LLMTokenizer`."""
        if token not in self.tokenizer.get_vocab():
            self.tokenizer.add_tokens([token], special_tokens=True)
        added: int = self.tokenizer.convert_tokens_to_ids(token)
        return added

    def pieces(self) -> Iterable[str]:
        """See :class:`LLMTokenizer`."""
        added = self.tokenizer.get_added_vocab()
        words = {piece: number for piece, number in self.tokenizer.get_vocab().items() if piece not in added}
        return sorted(words, key=words.__getitem__)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """See :class:`LLMTokenizer`."""
        self.tokenizer.save_pretrained(os.fspath(folder))

    def apply_chat_template(self, turns: Sequence[Mapping[str, str]], prompt: bool) -> str:
        """See :class:`LLMTokenizer`."""
        if not self.tokenizer.chat_template:
            return super().apply_chat_template(turns, prompt)
        text: str = self.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=prompt)
        return text


class SentencePieceTokenizer(LLMTokenizer):
    """A sentencepiece model; added tokens have the ids after its own."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from sentencepiece import SentencePieceProcessor

        self.path = Path(path)
        try:
            self.model = SentencePieceProcessor(model_file=os.fspath(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: no sentencepiece model ({one_line(error)[:200]})") from None
        ids = [one if one >= 0 else None for one in (self.model.bos_id(), self.model.eos_id(), self.model.unk_id())]
        self.bos_id, self.eos_id, self.unk_id = ids
        self.bos = "" if self.bos_id is None else self.model.id_to_piece(self.bos_id)
        self.eos = "" if self.eos_id is None else self.model.id_to_piece(self.eos_id)
        self.special = {
            text: one for text, one in ((self.bos, self.bos_id), (self.eos, self.eos_id)) if one is not None
        }
        self._set_pad(self.model.pad_id() if self.model.pad_id() >= 0 else None)

    def __len__(self) -> int:
        return max([self.model.vocab_size() - 1, *self.special.values()]) + 1

    def text_to_ids(self, text: str) -> list[int]:
        """See :class:`LLMTokenizer`."""
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, self.special)) + ")", text) if self.special else [text]:
            ids += [self.special[part]] if part in self.special else self.model.encode(part)
        return ids

    def ids_to_text(self, ids: Sequence[int] | Tensor) -> str:
        """See :class:`LLMTokenizer`."""
        dropped, pieces = {*self.special.values(), self.pad_id}, self.model.vocab_size()
        # A language model may have more rows than there are tokens.
        text: str = self.model.decode([one for one in _plain(ids) if one not in dropped and one < pieces])
        return text

    def add_special_token(self, token: str) -> int:
        """See :class:`LLMTokenizer`."""
        return self.special.setdefault(token, len(self))

    def pieces(self) -> Iterable[str]:
        """See :class:`LLMTokenizer`."""
        return map(self.model.id_to_piece, range(self.model.vocab_size()))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """See :class:`LLMTokenizer`."""
        target = Path(folder) / SENTENCEPIECE
        if target.absolute() != self.path.absolute():
            shutil.copyfile(self.path, target)


def load_tokenizer(source: str | os.PathLike[str]) -> LLMTokenizer:
    """A tokenizer by folder, file, or name on the Hugging Face hub.

    Raises:
        InputError: there is none, it cannot be read, or needs transformers, which is not installed.
    """
    path = Path(source)
    if path.suffix == ".model":
        if not path.is_file():
            raise InputError(f"{path}: no such tokenizer; give its absolute path, or run where it is")
        return SentencePieceTokenizer(path)
    if (path / SENTENCEPIECE).is_file() and not (path / "tokenizer_config.json").is_file():
        return SentencePieceTokenizer(path / SENTENCEPIECE)
    if path.is_dir() and not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"{path}: no tokenizer in it ({', '.join((SENTENCEPIECE, *_TOKENIZER_FILES))})")
    return TransformersTokenizer(os.fspath(source))


def _plain(ids: Sequence[int] | Tensor) -> list[int]:
    return ids.tolist() if isinstance(ids, Tensor) else [int(one) for one in ids]
