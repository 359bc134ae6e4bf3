"""Utterances and blocks against plain loops over the lines that were written."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.data.binarized_corpus import BinarizedCorpus
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.data.utterance_dataset import UtteranceDataset
from speechdlm_ext.errors import InputError
from tests.helpers.binarized import SYMBOLS, write_corpus, write_lines

UNITS = 6


def dataset(folder: Path, lines: list[list[int]], durations: bool = False, **options: Any) -> UtteranceDataset:
    corpus = BinarizedCorpus(str(write_corpus(folder, lines, durations=durations)))
    rows = UnitDictionary(UNITS)
    return UtteranceDataset(
        corpus.units("train", rows), rows, corpus.durations("train") if durations else None, **options
    )


LINES = [[3, 0, 1], [], [5], [4, 4, 0, 1, 1], [], [], [0, 3], [1, 5, 4, 3]]


def test_utterances_go_from_bos_to_eos(tmp_path: Path) -> None:
    data = dataset(tmp_path, LINES, durations=True)
    whole = [line for line in LINES if line]
    assert len(data) == len(whole) and data.empty == 3
    for i, line in enumerate(whole):
        item, rows = data[i], [unit + 1 for unit in line]
        frames = [1 + (unit + t) % 3 for t, unit in enumerate(line)]
        assert item["source"].tolist() == [0, *rows] and item["target"].tolist() == [*rows, 0]
        assert item["durations"].tolist() == [0, *frames] and item["frames"] == sum(frames)
        assert data.sizes[i] == len(rows) + 1


def test_batches_are_padded_and_counted_the_longest_first(tmp_path: Path) -> None:
    data = dataset(tmp_path, LINES, durations=True)
    batch = data.collater([data[i] for i in (0, 1, 2)])
    assert batch["id"].tolist() == [2, 0, 1] and batch["net_input"]["src_lengths"].tolist() == [6, 4, 2]
    assert batch["target"].tolist() == [[5, 5, 1, 2, 2, 0], [4, 1, 2, 0, 7, 7], [6, 0, 7, 7, 7, 7]]
    assert batch["net_input"]["src_tokens"].tolist() == [[0, 5, 5, 1, 2, 2], [0, 4, 1, 2, 7, 7], [0, 6, 7, 7, 7, 7]]
    assert batch["net_input"]["token_index"].tolist() == [*range(6), 6, 7, 8, 9, 12, 13]
    assert (batch["ntokens"], batch["nsentences"], batch["units"], batch["timed"]) == (12, 3, 9, 9)
    assert batch["frames"] == int(batch["durations"].sum()) == sum(data[i]["frames"] for i in (0, 1, 2))
    assert batch["durations"].shape == (3, 6) and batch["durations"][2].tolist()[2:] == [0] * 4
    assert data.collater([]) == {}


def test_counts_are_of_what_is_trained(tmp_path: Path) -> None:
    data = dataset(tmp_path, LINES, block_size=4, durations=True)
    batch = data.collater([data[i] for i in range(len(data))])
    assert batch["ntokens"] == int(batch["target"].ne(7).sum()) < len(batch["net_input"]["token_index"])
    assert batch["units"] == int(batch["target"].ne(7).sum() - batch["target"].eq(0).sum())
    assert batch["timed"] == int(
        batch["net_input"]["src_tokens"].ne(7).sum()
        - (batch["durations"].eq(0) & batch["net_input"]["src_tokens"].ne(7)).sum()
    )


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=30).filter(any),
    st.one_of(st.none(), st.integers(1, 40)),
    st.one_of(st.none(), st.integers(1, 5)),
    st.booleans(),
    st.integers(1, 3),
)
@settings(max_examples=50, deadline=None)
def test_every_utterance_is_in_one_batch_within_the_limits(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    tokens: int | None,
    sentences: int | None,
    shuffle: bool,
    epoch: int,
) -> None:
    folder = tmp_path_factory.mktemp("batches")
    data = dataset(folder, [[0] * n for n in lengths], shuffle=shuffle)
    data.set_epoch(epoch)
    kept, skipped = data.filter_indices_by_size(data.ordered_indices(), 3)
    batches = data.batch_by_size(kept, tokens, sentences, required_batch_size_multiple=8)
    assert sorted(i for batch in batches for i in batch) == list(range(len(data))) and not skipped
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        longest = max(data.sizes[i] for i in batch)
        assert tokens is None or longest * len(batch) <= tokens or len(batch) == 1
        assert sentences is None or len(batch) <= sentences
        if following is not None:  # there is no room for the next one
            full = sentences is not None and len(batch) == sentences
            more = max(longest, data.sizes[following[0]]) * (len(batch) + 1)
            assert full or (tokens is not None and more > tokens)


def plain_stream(lines: list[list[int]]) -> tuple[list[int], list[int]]:
    """Rows of all lines with EOS after each, and which document each belongs to; -1 for empty lines."""
    rows, documents, document = [], [], 0
    for line in lines:
        document += not line
        rows += [unit + 1 for unit in line] + [0]
        documents += [document if line else -1] * (len(line) + 1)
    return rows, documents


@given(
    st.lists(st.lists(st.sampled_from(SYMBOLS), max_size=9), min_size=1, max_size=12).filter(any),
    st.integers(2, 12),
    st.integers(1, 50),
)
@settings(max_examples=60, deadline=None)
def test_blocks_have_every_position_of_a_document_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[int]], size: int, epoch: int
) -> None:
    data = dataset(tmp_path_factory.mktemp("blocks"), lines, block_size=size, durations=True)
    data.set_epoch(epoch)
    rows, documents = plain_stream(lines)
    seen = np.zeros(len(rows), dtype=int)
    for i in range(len(data)):
        start, end = int(data.starts[i]), int(data.ends[i])
        seen[start:end] += 1
        assert 2 <= end - start <= size and len(set(documents[start:end])) == 1 and documents[start] >= 0
        item = data[i]
        begins = start == 0 or rows[start - 1] == 0
        assert item["source"].tolist() == [0 if begins else rows[start - 1], *rows[start : end - 1]]
        assert item["target"].tolist() == [7, *rows[start + 1 : end]]  # the first is not trained on
        assert item["source"].eq(0).equal(item["durations"].eq(0))
    assert seen.max(initial=0) <= 1
    missed = [place for place in range(len(rows)) if documents[place] >= 0 and not seen[place]]
    per_document = {d: sum(documents[place] == d for place in missed) for d in set(documents)}
    assert max(per_document.values()) <= 2  # pieces of one place at a document's ends


def test_blocks_start_anywhere_and_elsewhere_in_each_epoch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [random.choice(SYMBOLS, random.integers(1, 30)).tolist() for _ in range(40)]
    data = dataset(tmp_path, lines, block_size=16, shuffle=True)
    phases, orders = [], []
    for epoch in range(1, 401):
        data.set_epoch(epoch)
        phases.append(int(data.starts[1 if data.starts[0] == 0 else 0]) % 16)
        orders.append(data.ordered_indices().tolist())
    counts = np.bincount(phases, minlength=16)
    assert counts.min() > 0 and np.square(counts - 25).sum() / 25 < 40  # chi-square with 15 degrees of freedom
    again = dataset(tmp_path, lines, block_size=16, shuffle=True)
    again.set_epoch(400)
    assert again.ordered_indices().tolist() == orders[-1] and (again.starts == data.starts).all()
    assert orders[0] != orders[1] and not data.can_reuse_epoch_itr_across_epochs
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[3]["target"], data[3]["target"])


def test_training_batches_are_of_like_length_and_composed_anew(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [[0] * int(n) for n in random.integers(1, 200, 300)]
    data = dataset(tmp_path, lines, shuffle=True)
    compositions = []
    for epoch in (1, 2):
        data.set_epoch(epoch)
        batches = data.batch_by_size(data.ordered_indices(), 1500)
        compositions.append({tuple(sorted(batch)) for batch in batches})
        spread = [data.sizes[b].max() / data.sizes[b].min() for b in batches]
        assert np.median(spread) < 1.35
    assert len(compositions[0] & compositions[1]) < 5


def test_folders_of_fairseq_preprocess_and_binarize_are_read(tmp_path: Path) -> None:
    rows = UnitDictionary(UNITS)
    write_corpus(tmp_path / "one", LINES, "unitA", durations=True)
    corpus = BinarizedCorpus(str(tmp_path / "one"))
    assert corpus.channel == "unitA" and len(UtteranceDataset(corpus.units("train", rows), rows)) == 5
    assert corpus.durations("train").read(0, 4).tolist() == [1, 2, 1, 0]
    write_corpus(tmp_path / "one", LINES[:1], "unitB")
    with pytest.raises(InputError, match="channels unitA, unitB: name the one"):
        BinarizedCorpus(str(tmp_path / "one"))
    assert BinarizedCorpus(str(tmp_path / "one"), "unitB").channel == "unitB"
    with pytest.raises(InputError, match=r"no dict\.unitC\.txt in it, only channels unitA, unitB"):
        BinarizedCorpus(str(tmp_path / "one"), "unitC")
    with pytest.raises(InputError, match="no such folder"):
        BinarizedCorpus(str(tmp_path / "two"))


def test_data_that_will_not_do_are_explained(tmp_path: Path) -> None:
    rows = UnitDictionary(UNITS)
    folder = write_corpus(tmp_path / "data", LINES, durations=True)
    corpus = BinarizedCorpus(str(folder))
    write_lines(folder / "train", [[4, 4], [4, 3, 4]])  # <unk>
    with pytest.raises(InputError, match=r"train, line 2: <unk>"):
        UtteranceDataset(corpus.units("train", rows), rows)[1]
    with pytest.raises(InputError, match=r"train\.durations, line 1: 3 durations, 2 units"):
        UtteranceDataset(corpus.units("train", rows), rows, corpus.durations("train"))
    write_lines(folder / "train", [[4, 4, 4]])
    with pytest.raises(InputError, match="8 lines of durations, 1 of units"):
        UtteranceDataset(corpus.units("train", rows), rows, corpus.durations("train"))
    write_lines(folder / "train", [[], []])
    with pytest.raises(InputError, match="no units in it"):
        UtteranceDataset(corpus.units("train", rows), rows)
    with pytest.raises(InputError, match="unit 5 is outside the vocabulary"):
        corpus.units("train", UnitDictionary(5))
    (folder / "dict.durations.txt").write_text("0 1\n2 1\n")
    with pytest.raises(InputError, match="0 is not a duration"):
        corpus.durations("train")
    (folder / "dict.durations.txt").unlink()
    with pytest.raises(InputError, match=r"dict\.durations\.txt: no such file"):
        corpus.durations("train")
