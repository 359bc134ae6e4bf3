"""Splits: nothing lost, nothing in both parts, and the lines that fairseq-preprocess reads."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from speechdlm_ext.data.binarization import binarize
from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import expand_durations, read_unit_file, write_unit_file
from speechdlm_ext.units.splitting import Split, split_rows, write_split


def recording(name: str, frames: int, first: int = 0) -> dict:
    """Every frame is a unit of its own, so that it can be followed."""
    return {
        "audio": name,
        "unitA": " ".join(str(first + frame) for frame in range(frames)),
        "unitB": " ".join(str(10**6 + first + frame) for frame in range(frames)),
        "frame_rate": 50.0,
        "codebook": "abc",
    }


def parts(split: Split) -> dict[str, list[dict]]:
    """The segments of each part that has some."""
    found: dict[str, list[dict]] = {}
    for part, row in split:
        found.setdefault(part, []).append(row)
    return {part: found[part] for part in ("train", "valid", "test") if part in found}


@pytest.mark.commands
@settings(deadline=None, max_examples=30)
@given(
    seconds=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    valid=st.sampled_from([0.05, 0.1, 0.3, 0.5]),
    segment=st.sampled_from([2.5, 20.0]),
    seed=st.integers(0, 5),
)
def test_every_frame_is_in_one_part_once(seconds: list[int], valid: float, segment: float, seed: int) -> None:
    rows, first = [], 0
    for number, length in enumerate(seconds):
        rows.append(recording(f"r{number}", length * 50 + number, first))
        first += length * 50 + number
    try:
        split = split_rows(rows, valid, segment, seed=seed)
    except InputError as error:
        assert "too little" in str(error)
        assume(False)
    train, held_out = parts(split)["train"], parts(split)["valid"]
    units = [[unit for row in part for unit in row["unitA"].split()] for part in (train, held_out)]
    assert sorted(map(int, units[0] + units[1])) == list(range(first))
    assert not set(units[0]) & set(units[1]) and all(units)
    names = [row["audio"] for row in train + held_out]
    assert len(set(names)) == len(names)
    by_name = {row["audio"]: row for row in rows}
    for row in train + held_out:
        source = by_name[row["recording"]]
        start, stop = round(row["start"] * 50), round((row["start"] + row["duration"]) * 50)
        for channel in ("unitA", "unitB"):
            assert row[channel].split() == source[channel].split()[start:stop]
        assert row["duration"] <= segment and row["codebook"] == "abc"
    if split.by_recording:
        assert not {row["recording"] for row in held_out} & {row["recording"] for row in train}
        share = len(units[1]) / first
        assert valid / 2 <= share <= 2 * valid


def test_many_recordings_are_held_out_whole_and_few_by_their_tails() -> None:
    many = split_rows([recording(f"r{n}", 3000) for n in range(20)], 0.1)
    assert many.by_recording and len({row["recording"] for row in parts(many)["valid"]}) == 2
    few = split_rows([recording("long", 12000), recording("short", 300)], 0.1)
    assert not few.by_recording
    assert [(row["recording"], row["start"], row["duration"]) for row in parts(few)["valid"]] == [("long", 216.0, 24.0)]


def test_copies_at_other_speeds_are_for_training_without_what_is_held_out() -> None:
    """Frame f of a copy at speed s is frame f·s of the original: none of those may be held out."""
    for lengths in ([2000, 3001], [500] * 12):
        rows = [recording(f"r{number}", length) for number, length in enumerate(lengths)]
        copies = [
            {**recording(f"{row['audio']}-fast", length * 9 // 10), "copy_of": row["audio"], "speed": 10 / 9}
            for row, length in zip(rows, lengths, strict=True)
        ]
        alone, split = parts(split_rows(rows, 0.17, 15)), parts(split_rows(rows + copies, 0.17, 15))
        assert split["valid"] == alone["valid"] and split["train"][: len(alone["train"])] == alone["train"]
        first_held_out = {row["recording"]: row["start"] for row in reversed(split["valid"])}
        added = split["train"][len(alone["train"]) :]
        assert {row["recording"] for row in added} == {f"{row['recording']}-fast" for row in alone["train"]}
        for row in added:
            assert (row["start"] + row["duration"]) * 10 / 9 <= first_held_out.get(row["copy_of"], 1e9) + 0.02
    with pytest.raises(InputError, match="a copy of r99, which is not in the file"):
        split_rows([*rows, {**recording("x", 100), "copy_of": "r99"}], 0.17, 15)


@pytest.mark.commands
def test_seed_chooses() -> None:
    rows = [recording(f"r{n}", 3000) for n in range(20)]
    chosen = {tuple(row["recording"] for row in parts(split_rows(rows, 0.1, seed=seed))["valid"]) for seed in range(10)}
    assert len(chosen) > 3
    one, same = (parts(split_rows(given, 0.1, seed=3)) for given in (rows, rows[::-1]))
    assert one == parts(split_rows(rows, 0.1, seed=3))
    # The order of the rows is of no account.
    assert {row["recording"] for row in one["valid"]} == {row["recording"] for row in same["valid"]}


def test_files(tmp_path: Path) -> None:
    rows = [recording("r1", 3000), recording("r2", 3010, 5000)]
    split = split_rows(rows, 0.1, 20)
    write_split(tmp_path / "new", split)
    names = {f"{part}.{end}" for part in ("train", "valid") for end in ("jsonl", "unitA", "unitB")}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names | {"dict.txt"}
    for part, expected in parts(split).items():
        assert read_unit_file(tmp_path / "new" / f"{part}.jsonl") == expected
        for channel in ("unitA", "unitB"):
            lines = (tmp_path / "new" / f"{part}.{channel}").read_text().splitlines()
            assert lines == [row[channel] for row in expected]
    counts = dict(line.split() for line in (tmp_path / "new" / "dict.txt").read_text().splitlines())
    everything = " ".join(row[channel] for row in rows for channel in ("unitA", "unitB")).split()
    assert list(counts) == sorted(counts, key=lambda unit: (-int(counts[unit]), unit))  # as fairseq orders them
    assert set(counts) == set(everything) and sum(map(int, counts.values())) == len(everything)


def test_mono_and_stereo_for_a_vocoder(tmp_path: Path) -> None:
    """Only the .jsonl files, in which every unit of every channel is; files of a split of before do not stay."""
    rows = [recording(f"r{n}", 900 + n) for n in range(6)]
    write_split(tmp_path / "split", split_rows(rows, 0.2, 10))
    for row in rows[::2]:
        del row["unitB"]
    split = split_rows(rows, 0.2, 10, mixed=True)
    write_split(tmp_path / "split", split, overwrite=True, jsonl_only=True)
    assert {path.name for path in (tmp_path / "split").iterdir()} == {"train.jsonl", "valid.jsonl"}
    found = [row for part in ("train", "valid") for row in read_unit_file(tmp_path / "split" / f"{part}.jsonl")]
    for row in rows:
        parts = sorted((part for part in found if part["recording"] == row["audio"]), key=lambda part: part["start"])
        for name in ("unitA", "unitB"):
            assert " ".join(part[name] for part in parts if name in part) == row.get(name, "")


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([recording("a", 100)], {}, "too little"),
        ([recording("a", 9000)], {"valid": 0}, "--valid 0"),
        ([recording("a", 9000)], {"valid": 1.0}, "--valid 1.0"),
        ([recording("a", 9000)], {"segment_seconds": 0}, "--segment-seconds 0"),
        ([recording("a", 9000), recording("a", 9000)], {}, "no other row"),
        ([recording("fe_03/a", 9000)], {}, "cannot be the name of a file"),
        (
            [recording("a", 9000), {"audio": "b", "unitA": "1 2"}],
            {},
            "row b has the channels unitA, row a .*--jsonl-only",
        ),
        ([{"audio": "a", "unitA": "1 2", "unitB": "1"}], {}, "unequal length"),
        ([], {}, "no rows"),
        ([recording("a", 9000), recording("b", 100)], {"test": 0.1}, "--test 0.1: no choice among 2 recordings"),
        ([recording("a", 9000)], {"test": 0.95}, "--test 0.95"),
        ([{"audio": "a", "unitA": "1 2", "unitA.durations": "300"}], {}, "2 units, but 1 durations"),
        ([{"audio": "a", "unitA": "1 2", "unitA.durations": "3000 0"}], {}, "unit number 2 lasts 0 frames"),
        (
            [{"audio": "a", "unitA": "1 2", "unitA.durations": "300 9"}, {"audio": "b", "unitA": "1 2"}],
            {},
            "row b: either all channels of all rows have durations, or none",
        ),
    ],
)
def test_what_cannot_be_split(rows: list[dict], options: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        list(split_rows(rows, **options))


@pytest.mark.commands
def test_fairseq_preprocess_reads_the_lines(tmp_path: Path, run_loaded) -> None:
    """Units come back from the binarized data as they were, whichever channel has seen them."""
    rows = [recording("r1", 900), recording("r2", 910, 2000)]
    split = split_rows(rows, 0.2, 10)
    write_split(tmp_path / "data", split)
    # The second channel has units that the first never has: its lines come back whole because of dict.txt.
    run_loaded(
        ["fairseq-preprocess", "--source-lang", "unitB", "--only-source", "--trainpref", tmp_path / "data/train",
         "--validpref", tmp_path / "data/valid", "--srcdict", tmp_path / "data/dict.txt", "--destdir", tmp_path / "bin",
         "--workers", "1"], cwd=tmp_path)  # fmt: skip
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(tmp_path / "bin" / "dict.unitB.txt"))
    data = data_utils.load_indexed_dataset(str(tmp_path / "bin" / "valid.unitB-None.unitB"), dictionary)
    assert [dictionary.string(line) for line in data] == [row["unitB"] for row in parts(split)["valid"]]


@settings(deadline=None, max_examples=30)
@given(
    data=st.lists(st.lists(st.integers(1, 90), min_size=8, max_size=40), min_size=1, max_size=12),
    segment=st.sampled_from([1.3, 20.0]),
    test=st.sampled_from([0.0, 0.2]),
)
def test_deduplicated_rows_are_cut_as_their_frames_are(data: list[list[int]], segment: float, test: float) -> None:
    """Runs go through with their durations: drawn out, the segments are those of the frames."""
    rows = [
        {
            "audio": f"r{number}",
            "unitA": " ".join(str(unit % 7) for unit in range(len(durations))),
            "unitA.durations": " ".join(map(str, durations)),
        }
        for number, durations in enumerate(data)
    ]
    try:
        expected = parts(split_rows([expand_durations(row) for row in rows], 0.3, segment, 0.5, test=test))
    except InputError:
        assume(False)
    split = split_rows(rows, 0.3, segment, 0.5, test=test)
    found = parts(split)
    assert found.keys() == expected.keys()
    for name, part in found.items():
        assert [expand_durations(row) for row in part] == expected[name]
        for row in part:
            units = row["unitA"].split()
            assert all(one != other for one, other in pairwise(units))
    recordings = [{row["recording"] for row in part} for part in found.values()]
    assert not split.by_recording or sum(map(len, recordings)) == len(set().union(*recordings)) == len(rows)


@pytest.mark.commands
def test_a_last_test_is_of_recordings_that_nothing_else_has_seen(tmp_path: Path) -> None:
    rows = [recording(f"r{n}", 3000 + n) for n in range(20)]
    copies = [{**recording(f"{row['audio']}-slow", 3300), "copy_of": row["audio"], "speed": 0.9} for row in rows]
    split = split_rows(rows + copies, 0.1, test=0.2)
    named = {name: {row.get("copy_of", row["recording"]) for row in part} for name, part in parts(split).items()}
    assert {name: len(names) for name, names in named.items()} == {"train": 14, "valid": 2, "test": 4}
    assert len(set().union(*named.values())) == 20
    write_split(tmp_path, split)
    assert read_unit_file(tmp_path / "test.jsonl") == parts(split)["test"] and (tmp_path / "test.unitB").is_file()
    other = split_rows(rows, 0.1)
    with pytest.raises(InputError, match="another split already"):
        write_split(tmp_path, other)
    write_split(tmp_path, other, overwrite=True)
    assert not list(tmp_path.glob("test.*"))


@pytest.mark.commands
def test_durations_travel_from_the_split_to_the_binarized_data(tmp_path: Path, run_command, checkout) -> None:
    rows = [
        {"audio": f"r{n}", "unitA": "4 7 4 9", "unitA.durations": f"3 {900 + n} 1 4", "frame_rate": 50.0}
        for n in range(10)
    ]
    rows[0]["unitA"] = "4 8 4 9"  # a unit that one part alone has
    write_unit_file(tmp_path / "units.jsonl", rows)
    command = ["python", checkout / "data_prep/split_units.py", tmp_path / "units.jsonl"]
    run_command([*command, tmp_path / "split", "--valid", "0.2", "--test", "0.2", "--segment-seconds", "9"])
    prefixes = {part: str(tmp_path / "split" / part) for part in ("train", "valid", "test")}
    channels = ["unitA", "unitA.durations"]
    binarize(prefixes, tmp_path / "bin", channels, srcdict=str(tmp_path / "split" / "dict.txt"))
    from fairseq.data import Dictionary, data_utils

    for part in prefixes:
        segments = read_unit_file(tmp_path / "split" / f"{part}.jsonl")
        for stream in channels:
            dictionary = Dictionary.load(str(tmp_path / "bin" / f"dict.{stream}.txt"))
            data = data_utils.load_indexed_dataset(str(tmp_path / "bin" / f"{part}.{stream}"), dictionary)
            assert [dictionary.string(line) for line in data] == [row[stream] for row in segments]
    run_command([*command, tmp_path / "frames", "--expand", "--valid", "0.2"])
    whole = [row for part in ("train", "valid") for row in read_unit_file(tmp_path / "frames" / f"{part}.jsonl")]
    assert all("unitA.durations" not in row for row in whole)
    assert sum(len(row["unitA"].split()) for row in whole) == sum(908 + n for n in range(10))


@pytest.mark.commands
def test_a_long_recording_takes_time_in_proportion() -> None:
    """Eight hours of runs in 480 segments: a row is parsed once, not for each segment."""
    row = {"audio": "a", "unitA": "7 8 9 " * 240_000, "unitA.durations": "1 2 3 " * 240_000}
    start = time.perf_counter()
    found = parts(split_rows([row], 0.1))
    assert len(found["train"]) + len(found["valid"]) == 480 and time.perf_counter() - start < 20


MEMORY = """
import json, resource, sys
from speechdlm_ext.units.files import UnitFile
from speechdlm_ext.units.splitting import split_rows, write_split
for count in (2_000, 60_000):
    with open(f"{sys.argv[1]}/{count}", "w") as file:
        for number in range(count):
            file.write(json.dumps({"audio": f"recording {number}", "unitA": f"{number % 9} 2 3 4 " * 40}) + "\\n")
    sizes = write_split(f"{sys.argv[1]}/{count}-split", split_rows(UnitFile(f"{sys.argv[1]}/{count}"), 0.1))
    assert sum(number for number, _ in sizes.values()) == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_file(tmp_path: Path, run_command) -> None:
    small, large = map(int, run_command(["python", "-c", MEMORY, tmp_path]).stdout.split())
    assert large - small < 10_000  # kB; the rows alone are 20,000 in the file
