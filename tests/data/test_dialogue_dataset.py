"""Blocks, edges and durations against plain loops, on data that fairseq-preprocess wrote."""

from __future__ import annotations

import pickle
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from fairseq.data import MonolingualDataset, TokenBlockDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.data.dialogue_dataset import DialogueDataset, run_durations
from speechdlm_ext.data.unit_stream import UnitStream, find_binarized
from speechdlm_ext.errors import InputError
from tests.helpers.binarized import write_lines
from tests.helpers.published import toy_dictionary


def dataset(folder: Path, channels: list[list[list[int]]], **options: object) -> DialogueDataset:
    streams = [UnitStream(write_lines(folder / f"c{i}", lines)) for i, lines in enumerate(channels)]
    return DialogueDataset(streams, toy_dictionary(len(channels)), **options)  # type: ignore[arg-type]


@given(st.lists(st.integers(4, 6), min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 9))
def test_durations_are_the_runs_counted_one_by_one(units: list[int], length: int, cap: int) -> None:
    length = min(length, len(units))
    expected = [0] * length
    position = 0
    for _, run in groupby(units):
        size = len(list(run))
        if position < length:
            expected[position] = min(size, cap)
        position += size
    assert run_durations(np.array(units), length, cap).tolist() == expected


def test_blocks_hold_every_frame_once_and_sources_are_one_frame_late(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [[random.integers(4, 9, 11 + i).tolist() for i in range(5)] for _ in range(2)]
    data = dataset(tmp_path, lines, block_size=8)
    stream = [np.concatenate([[*line, 2] for line in channel]) for channel in lines]
    blocks = [data[i] for i in range(len(data))]
    for c in range(2):
        np.testing.assert_array_equal(np.concatenate([b["target"][:, c] for b in blocks]), stream[c])
        source = np.concatenate([b["source"][:, c] for b in blocks])
        np.testing.assert_array_equal(source, np.concatenate([[2], stream[c][:-1]]))
    assert data.ordered_indices().tolist() == list(range(len(data)))


def test_training_order_is_that_of_the_language_modeling_task(tmp_path: Path) -> None:
    lines = [[4 + i % 3] * (1 + i * 7 % 5) for i in range(40)]
    data = dataset(tmp_path, [lines, lines], block_size=8, break_mode="eos", shuffle=True)
    sizes = data.sizes
    theirs = MonolingualDataset(list(range(len(data))), sizes, None, shuffle=True)
    for seed in (1, 2):
        np.random.seed(seed)
        expected = theirs.ordered_indices().tolist()
        np.random.seed(seed)
        assert data.ordered_indices().tolist() == expected
    assert sorted(expected) == list(range(len(data))) and np.all(np.diff(sizes[expected]) >= 0)


@pytest.mark.parametrize("mode", ["none", "complete", "eos"])
def test_blocks_are_those_of_fairseqs_language_models(tmp_path: Path, mode: str) -> None:
    random = np.random.default_rng(1)
    lines = [random.integers(4, 9, size).tolist() for size in (7, 3, 20, 1, 5, 9)]
    ours = dataset(tmp_path, [lines, lines], block_size=10, break_mode=mode)
    theirs = MMapIndexedDataset(str(tmp_path / "c0"))
    theirs = TokenBlockDataset(theirs, theirs.sizes, 10, pad=1, eos=2, break_mode=mode, include_targets=True)
    assert len(ours) == len(theirs)
    for i in range(len(ours)):
        source, target, _ = theirs[i]
        assert ours[i]["source"][:, 1].tolist() == source.tolist()
        assert ours[i]["target"][:, 1].tolist() == target.tolist()
        assert ours.sizes[i] == len(target) == ours.num_tokens(i)


def test_a_run_cut_by_the_block_goes_on_counting_whatever_the_next_block_is(tmp_path: Path) -> None:
    line = [4, 4, 4, 5, 5, 5, 5, 5, 5]  # blocks of 8: the run of 5 begins in the first and ends in a block of 2
    data = dataset(tmp_path, [[line], [line]], block_size=8)
    assert data[0]["durations"][:, 0].tolist() == [3, 0, 0, 6, 0, 0, 0, 0]
    assert data[1]["durations"][:, 0].tolist() == [1, 1]  # the rest of the run, then </s>
    capped = dataset(tmp_path, [[line], [line]], block_size=8, max_duration=4)
    assert capped[0]["durations"][:, 0].tolist() == [3, 0, 0, 4, 0, 0, 0, 0]


def test_collater_pads_on_the_right_and_counts_frames(tmp_path: Path) -> None:
    data = dataset(tmp_path, [[[4, 5, 6]], [[7, 7, 7]]], block_size=3)
    batch = data.collater([data[0], data[1]])
    assert batch["target"].tolist() == [[[4, 7], [5, 7], [6, 7]], [[2, 2], [1, 1], [1, 1]]]
    assert batch["net_input"]["src_tokens"][1].tolist() == [[6, 7], [1, 1], [1, 1]]
    assert batch["durations"][1].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert batch["ntokens"] == 4 and batch["nsentences"] == 2
    assert data.collater([]) == {}


def test_reference_blocks_have_the_published_edges(reference: Path) -> None:
    """The published loader's edges and counts, in blocks of 64 or 1024 frames, are in criterion_valid.json."""
    import json

    streams = [UnitStream(find_binarized(str(reference / "bin"), "valid", c)) for c in ("unitA", "unitB")]
    data = DialogueDataset(streams, toy_dictionary(), 64 if len(streams[0]) < 2000 else 1024)
    published = json.loads((reference / "A" / "criterion_valid.json").read_text())
    sums = published["blocks_per_batch_1"]["summed_logging_output"]
    edges = sum((data[i]["durations"] > 0).sum(0) for i in range(len(data)))
    assert edges.tolist() == [sums["[unitA-unitA]edge_token_count"], sums["[unitB-unitB]edge_token_count"]]


def test_channels_of_unequal_length_are_refused_with_file_line_and_lengths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c1, line 2: 6 frames in channel unitB, 4 in unitA .*2 line\(s\) differ"):
        dataset(tmp_path, [[[4] * 9, [4] * 3, [4] * 5], [[4] * 9, [4] * 5, [4] * 3]], block_size=8)
    with pytest.raises(InputError, match="1 lines in channel unitB, 2 in unitA"):
        dataset(tmp_path, [[[4], [4]], [[4]]], block_size=8)


def test_a_cut_file_and_a_wrong_format_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x", [[4, 5, 6, 7]])
    data = (tmp_path / "x.bin").read_bytes()
    (tmp_path / "x.bin").write_bytes(data[:-4])
    with pytest.raises(InputError, match="4 frames, its index says 5"):
        UnitStream(path)
    (tmp_path / "x.idx").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"x\.idx: not a memory-mapped index"):
        UnitStream(path)
    with pytest.raises(InputError, match="split valid of channel unitB is missing"):
        find_binarized(str(tmp_path), "valid", "unitB")


def test_both_names_are_found_and_streams_travel_to_workers(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.unitA-None.unitA", [[4, 5], [6]], dtype=np.uint16)
    stream = UnitStream(find_binarized(str(tmp_path), "train", "unitA"))
    copy = pickle.loads(pickle.dumps(stream))
    assert copy.read(0, 99).tolist() == [4, 5, 2, 6, 2]
    assert [stream.starts_line(frame) for frame in range(5)] == [True, False, False, True, False]
    write_lines(tmp_path / "train.unitA", [[9]])
    assert find_binarized(str(tmp_path), "train", "unitA").endswith("train.unitA")


def test_ten_thousand_hours_open_without_reading_the_frames(tmp_path: Path) -> None:
    """1.8 billion frames a channel in files with holes: opening and indexing must not touch them."""
    import struct
    import time
    import tracemalloc

    lines, length = 300_000, 6_000
    for name in ("c0", "c1"):
        with open(tmp_path / f"{name}.bin", "wb") as file:
            file.truncate(lines * length * 2)
        with open(tmp_path / f"{name}.idx", "wb") as file:
            file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, 8, lines))
            file.write(np.full(lines, length, np.int32).tobytes())
            file.write((np.arange(lines, dtype=np.int64) * length * 2).tobytes())
    tracemalloc.start()
    begun = time.process_time()
    data = DialogueDataset([UnitStream(str(tmp_path / name)) for name in ("c0", "c1")], toy_dictionary(), 6144)
    assert len(data) == -(-lines * length // 6144)
    assert len(data[len(data) // 2]["target"]) == 6144
    assert time.process_time() - begun < 20
    assert tracemalloc.get_traced_memory()[1] < 200e6  # the frames are 3.6e9 bytes a channel
    tracemalloc.stop()
