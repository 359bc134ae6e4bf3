"""Vocabularies: round trips, folders that fairseq and sentencepiece read, and what does not fit."""

from __future__ import annotations

import json
import tarfile
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from fairseq.data import Dictionary
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.asr.text_tokenizer import CharacterTokenizer, load_tokenizer, train_tokenizer
from speechdlm_ext.errors import InputError

TEXTS = ["one two three", "four  five", "six seven eight nine", "zero oh no", "Ünder the weather, they'd said"] * 3


@pytest.mark.parametrize(("kind", "size"), [("char", 0), ("bpe", 40), ("unigram", 34)])
def test_texts_come_back_and_the_folder_is_fairseqs_and_nemos(kind: str, size: int, tmp_path: Path) -> None:
    tokenizer, counts = train_tokenizer(TEXTS, kind, size)
    tokenizer.save(tmp_path, counts)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.kind, loaded.symbols) == (kind, tokenizer.symbols)
    dictionary = Dictionary.load(str(tmp_path / "dict.ltr.txt"))
    for text in TEXTS:
        symbols = loaded.split(text)
        assert loaded.join(symbols) == " ".join(text.split())
        ids = dictionary.encode_line(" ".join(symbols), append_eos=False, add_if_not_exist=False)
        assert dictionary.unk() not in ids.tolist()
        assert dictionary.string(ids).split(" ") == symbols
    assert loaded.unknown("one €2") == {"€": 1, "2": 1}
    if kind == "char":
        assert loaded.split("o €") == ["o", "|", "<unk>"]
    else:
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
        assert [loaded.symbols[i] for i in theirs.encode(TEXTS[0])] == loaded.split(TEXTS[0])
        pieces = (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()
        marked = [piece[2:] if piece.startswith("##") else piece if piece == "▁" else f"▁{piece}" for piece in pieces]
        assert tuple(marked) == loaded.symbols[1:]


def test_nemos_tokenizer_is_read(data: Path, tmp_path: Path) -> None:
    """NeMo's own folder: its ids of texts, its texts of ids, and its files again when saved."""
    folder = data / "reference" / "nemo"
    with tarfile.open(folder / "ctc_bpe.nemo") as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if "_" in member.name else None
            if file is not None:
                (tmp_path / member.name.split("_", 1)[1]).write_bytes(file.read())
    tokenizer = load_tokenizer(tmp_path)
    reference, texts = np.load(folder / "ctc_bpe_batch.npz"), json.loads((folder / "ctc_bpe_batch.json").read_text())
    for row, text in enumerate(texts["transcripts"]):
        expected = reference["targets"][row, : reference["targets_len"][row]]
        assert [tokenizer.symbols.index(symbol) for symbol in tokenizer.split(text)] == expected.tolist()
    blank = texts["blank"]
    for text, frames in zip(texts["transcribe"]["text"], texts["hyp_y_sequence"], strict=True):
        assert tokenizer.join(tokenizer.symbols[label] for label, _ in groupby(frames) if label != blank) == text
    tokenizer.save(tmp_path / "copy")
    for name in ("tokenizer.vocab", "vocab.txt"):
        assert (tmp_path / "copy" / name).read_text() == (tmp_path / name).read_text()


@given(st.text(alphabet="ab |'é", max_size=20))
def test_any_text_of_known_characters_comes_back(text: str) -> None:
    tokenizer = CharacterTokenizer([" ", "a", "b", "'", "é"])
    spaced = " ".join(text.replace("|", " ").split())
    assert tokenizer.join(tokenizer.split(text)) == spaced
    assert not tokenizer.unknown(text)


def test_normalised_texts_are_split_so_after_loading(tmp_path: Path) -> None:
    tokenizer, counts = train_tokenizer(["Hello, World!"], normalisation="words")
    tokenizer.save(tmp_path, counts)
    assert load_tokenizer(tmp_path).split("hello -- WORLD") == list("hello|world")
    assert counts["l"] == 3


def test_the_command_says_what_is_wrong(run_loaded: Any, checkout: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "train.json"
    command = ["python", checkout / "data_prep" / "train_tokenizer.py", manifest, tmp_path / "out"]
    manifest.write_text('{"text": "one two"}\n{"duration": 1}\n')
    failed = run_loaded(command, check=False)
    assert failed.returncode == 2 and "line 2" in failed.stderr and not (tmp_path / "out").exists()
    manifest.write_text('{"text": "one two"}\n')
    failed = run_loaded([*command, "--kind", "bpe", "--vocab-size", "1000"], check=False)
    assert failed.returncode == 2 and "--vocab-size 1000" in failed.stderr and failed.stderr.count("\n") == 1
    assert "6 symbols, 7 in the texts" in run_loaded(command).stdout
    assert run_loaded(command, check=False).returncode == 2  # not replaced unasked


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"tokenizer\.model: not a model of sentencepiece"):
        load_tokenizer(tmp_path)
