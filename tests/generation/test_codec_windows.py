"""Long rows in windows, units that keep their durations, and what a row may cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.codec_windows import Windows, generate_windows
from speechdlm_ext.generation.unit_to_codec import CodecOptions, CodecPrompt, generate_codec
from speechdlm_ext.hub import UnitToCodec
from speechdlm_ext.modules import cache
from tests.helpers.dpslm import acoustic_model

pytestmark = pytest.mark.commands

UNITS = 12


@pytest.fixture(scope="module")
def acoustic() -> UnitToCodec:
    return acoustic_model(UNITS)


def row(length: int, seed: int) -> list[int]:
    """Units of which no two neighbours are equal."""
    steps = np.random.default_rng(seed).integers(1, UNITS, length)
    return (np.cumsum(steps) % UNITS).tolist()


def windows_by_hand(acoustic: UnitToCodec, units: list[int], windows: Windows) -> list[list[int]]:
    """Greedy codec tokens of each unit, a window after the other, each decoded as after a voice."""
    dictionary, options = acoustic.dictionary, CodecOptions(max_tokens=10**6, top_p=0.0)
    ids, made = dictionary.unit_ids(units), []
    for start in range(0, len(ids), windows.units):
        begin = max(0, start - windows.overlap)
        read: list[int] = []
        for unit, codec in zip(ids[begin:start], made[begin:], strict=True):
            read += [unit, *(dictionary.codec_ids[c].item() for c in codec), dictionary.token_to_id["EOP"]]
        prompt = CodecPrompt(ids[begin : start + windows.units], read, start - begin)
        (found,) = generate_codec(acoustic.model.decoder, dictionary, [prompt], options, [lambda n: np.zeros(n)])
        made += found.codec_per_unit
    return made


def test_a_window_reads_the_end_of_the_one_before(acoustic: UnitToCodec) -> None:
    windows, rows = Windows(9, 4), [row(31, 1), row(5, 2), row(18, 3), []]
    codes, finished = acoustic.generate(rows, 10**6, top_p=0.0, windows=windows)
    assert finished == [True] * 4 and not len(codes[3])
    for units, found in zip(rows, codes, strict=True):
        assert found.tolist() == [c for codec in windows_by_hand(acoustic, units, windows) for c in codec]
    # A row that fits into one window is what it is without windows.
    assert torch.equal(codes[1], acoustic.generate([rows[1]], 10**6, top_p=0.0)[0][0])


def test_samples_of_a_row_do_not_depend_on_others_in_windows_either(acoustic: UnitToCodec) -> None:
    rows, windows = [row(20, 4), row(6, 5), row(13, 6)], Windows(5, 2)
    options = CodecOptions(max_tokens=10**6)

    def run(which: list[int]) -> list[Any]:
        prompts, seeds = [rows[i] for i in which], [(7, i, 0) for i in which]
        return acoustic.hypotheses(prompts, options, seeds, [None] * len(which), windows)

    together = run([0, 1, 2])
    assert together == [run([i])[0] for i in range(3)]
    assert all(len(one.codec_per_unit) == len(units) for one, units in zip(together, rows, strict=True))


def test_long_rows_take_the_memory_of_a_window(acoustic: UnitToCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    extend = cache.DecoderCache.extend

    def counted(self: Any, count: int) -> cache.DecoderCache:
        sizes.append(self.capacity)
        return extend(self, count)

    monkeypatch.setattr(cache.DecoderCache, "extend", counted)
    largest = {}
    for count in (30, 240, 480):
        sizes.clear()
        options = CodecOptions(max_tokens=10**9, max_codec_tokens_per_phone=0, top_p=0.0)
        (found,) = acoustic.hypotheses([row(count, 8)], options, [(1, 0, 0)], [None], Windows(30, 8))
        assert found.finished and len(found.codec_per_unit) == count
        largest[count] = max(sizes)
    assert largest[480] == largest[240] <= 2 * largest[30]


@pytest.mark.parametrize("windows", [Windows(), Windows(4, 2)])
def test_units_with_durations_get_the_codec_tokens_of_their_time(acoustic: UnitToCodec, windows: Windows) -> None:
    durations = np.random.default_rng(3).integers(1, 30, 11)
    frames = np.repeat(row(11, 9), durations).tolist()
    options = CodecOptions(max_tokens=10**6, max_codec_tokens_per_phone=2)
    (found,) = acoustic.hypotheses([frames], options, [(1, 0, 0)], [None], windows, framed=[True])
    starts = np.arange(len(frames) * 40 // 50 + 1) / 40  # of codec tokens, in seconds
    ends = np.cumsum(durations) / 50
    wanted = [
        int(((starts >= end - d / 50 - 1e-9) & (starts < end - 1e-9)).sum())
        for end, d in zip(ends, durations, strict=True)
    ]
    assert [len(codec) for codec in found.codec_per_unit] == wanted and found.finished


def test_a_limit_counts_over_windows_and_is_told(acoustic: UnitToCodec) -> None:
    rows = [row(30, 10), row(4, 11)]
    whole = acoustic.hypotheses(rows, CodecOptions(10**6), [(1, 0, 0), (1, 1, 0)], [None] * 2, Windows(6, 2))
    most = len(whole[0].ids) - 5
    cut = acoustic.hypotheses(rows, CodecOptions(most), [(1, 0, 0), (1, 1, 0)], [None] * 2, Windows(6, 2))
    assert [one.finished for one in cut] == [False, True] and cut[1] == whole[1]
    assert cut[0].ids == whole[0].ids[:most] and len(cut[0].codec_per_unit) <= 30


def test_prompts_read_in_chunks_give_the_same(acoustic: UnitToCodec) -> None:
    rows = [row(12, 12), row(7, 13)]
    wanted = acoustic.generate(rows, top_p=0.0)[0]
    for size in (1, 7, 1000):
        found = acoustic.generate(rows, top_p=0.0, chunk_size=size)[0]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_bad_sizes_are_one_line(acoustic: UnitToCodec) -> None:
    for arguments in ((0, 5), (5, -1)):
        with pytest.raises(InputError, match="windows of"):
            Windows(*arguments)
    with pytest.raises(InputError, match="chunk_size 0"):
        CodecOptions(chunk_size=0)
    decoder, dictionary = acoustic.model.decoder, acoustic.dictionary
    assert generate_windows(decoder, dictionary, [], CodecOptions(), [], Windows()) == []
