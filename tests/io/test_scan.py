"""Which files of a folder are used, under what names, and why others are not."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.naming import NameTable
from speechdlm_ext.io.recordings import read_manifest
from speechdlm_ext.io.scan import AudioFiles, make_manifest, write_manifest


def make_ids(paths: list[Path]) -> list[str]:
    names = NameTable()
    for place, path in enumerate(paths):
        names.add(place, path)
    names.settle()
    return [name for name, _ in names.names()]


def noise(seconds: float, rate: int = 16000, channels: int = 2, seed: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1), unique=True))
def test_ids_are_unique_and_safe(names: list[str]) -> None:
    paths = [Path("/data", name) for name in names if name not in (".", "..")]
    ids = make_ids(paths)
    assert len({name.casefold() for name in ids}) == len(ids) == len(paths)
    for name in ids:
        assert re.fullmatch(r"[\w.-]+", name) and not name.startswith(".") and len(name.encode()) < 220


def test_ids_say_where_equal_names_come_from() -> None:
    paths = [
        Path("/data/mon/call.wav"),
        Path("/data/tue/call.wav"),
        Path("/data/tue/call.flac"),
        Path("/data/My “Call” é.wav"),
    ]
    assert make_ids(paths) == ["mon-call", "tue-call", "tue-call-2", "My_Call_é"]


def test_folder_is_searched_to_its_depths(tmp_path: Path) -> None:
    for name in ("b.wav", "a/c.FLAC", "a/d e/f'g.ogg", ".hidden/x.wav", "a/.y.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert [str(path.relative_to(tmp_path)) for path in AudioFiles(tmp_path)] == ["a/c.FLAC", "a/d e/f'g.ogg", "b.wav"]


def test_good_and_bad_files(tmp_path: Path) -> None:
    good = noise(3)
    soundfile.write(tmp_path / "a good one.flac", good, 16000)
    soundfile.write(tmp_path / "b 8k é.wav", noise(3, 8000), 8000)
    soundfile.write(tmp_path / "c clipped.wav", np.clip(good * 40, -1, 1), 16000)
    soundfile.write(tmp_path / "d one side.wav", good * [1, 0], 16000)
    soundfile.write(tmp_path / "e mono.wav", good[:, 0], 16000)
    soundfile.write(tmp_path / "f short.wav", good[:16000], 16000)
    soundfile.write(tmp_path / "g silent.wav", good * 0, 16000)
    bad = good.astype(np.float32)
    bad[20000] = np.nan
    soundfile.write(tmp_path / "h nan.wav", bad, 16000, subtype="FLOAT")
    (tmp_path / "i text.wav").write_text("not sound")
    (tmp_path / "j empty.mp3").touch()
    soundfile.write(tmp_path / "k cut.flac", good, 16000)
    (tmp_path / "k cut.flac").write_bytes((tmp_path / "k cut.flac").read_bytes()[:30000])
    said: list[str] = []
    manifest = tmp_path / "out" / "manifest.jsonl"
    made, files = make_manifest(tmp_path, manifest, channels=2, min_seconds=2, say=said.append)
    used = list(made)
    assert files == 11
    assert [row["id"] for row in used] == ["a_good_one", "b_8k_é", "c_clipped", "d_one_side"]
    assert used[0] == {
        "id": "a_good_one", "audio_filepath": str(tmp_path / "a good one.flac"), "duration": 3.0, "channels": 2,
        "sample_rate": 16000,
    }  # fmt: skip
    assert used[1]["duration"] == 3.0 and used[1]["sample_rate"] == 8000
    assert "clipped" in used[2]["notes"][0] and used[3]["notes"] == ["channel 2 is silent"]
    assert sum("8000 Hz will be resampled" in line for line in said) == 1
    left_out = [json.loads(line) for line in Path(f"{manifest}.errors").read_text().splitlines()]
    reasons = [
        "1 channel, 2 are needed",
        "1.000 s long",
        "every sample is zero",
        "not a number",
        "not audio",
        "0 bytes",
        "damaged|cut",
    ]
    for row, reason in zip(left_out, reasons, strict=True):
        assert re.search(reason, row["error"]) and row["audio_filepath"] in row["error"] and "\n" not in row["error"]
    assert read_manifest(manifest) == used
    # The same again is no trouble; something else needs leave.
    rows = sorted([*used, *left_out], key=lambda row: row["audio_filepath"])
    assert write_manifest(manifest, rows, say=said.append) == used
    with pytest.raises(InputError, match="--overwrite"):
        write_manifest(manifest, rows[:1], say=said.append)
    write_manifest(manifest, rows[:1], overwrite=True, say=said.append)
    assert not Path(f"{manifest}.errors").exists()


def test_none_usable(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", noise(3)[:, 0], 16000)
    with pytest.raises(InputError, match="none of 1 audio files can be used.*1 channel"):
        make_manifest(tmp_path, tmp_path / "manifest.jsonl", channels=2, say=lambda line: None)
    assert not (tmp_path / "manifest.jsonl").exists()


def test_folders_without_audio(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no audio files"):
        AudioFiles(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        AudioFiles(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        AudioFiles(tmp_path / "file")


def test_stopped_and_started_again_reads_what_is_left(tmp_path: Path) -> None:
    """Also where a file has changed meanwhile, and a new one gives others another id."""
    folder = tmp_path / "é"
    for number in range(6):
        (folder / str(number)).mkdir(parents=True)
        soundfile.write(folder / str(number) / f"{number}.wav", noise(1, seed=number, channels=1 + number % 3), 16000)
    whole, files = make_manifest(folder, tmp_path / "whole.jsonl", say=lambda line: None)
    assert files == len(whole) == 6

    class Stop(Exception):
        pass

    done: set[str] = set()

    def stopping(items, count):
        for number, item in enumerate(items):
            if number == 4:
                raise Stop
            done.add(Path(item[1]["audio_filepath"]).name)
            yield item

    with pytest.raises(Stop):
        make_manifest(folder, tmp_path / "m.jsonl", progress=stopping, say=lambda line: None)
    assert not (tmp_path / "m.jsonl").exists()
    soundfile.write(folder / "1" / "1.wav", noise(2), 16000)
    soundfile.write(folder / "5" / "0.wav", noise(1), 16000)
    read: list[str] = []
    left = sorted(["0.wav", "1.wav", *({f"{number}.wav" for number in range(6)} - done - {"1.wav"})])

    def telling(items, count):
        assert count == len(left)
        for item in items:
            read.append(Path(item[1]["audio_filepath"]).name)
            yield item

    made, _ = make_manifest(folder, tmp_path / "m.jsonl", progress=telling, say=lambda line: None)
    assert sorted(read) == left and not list(tmp_path.glob("m.jsonl.*"))
    assert [row["id"] for row in made] == ["0-0", "1", "2", "3", "4", "5-0", "5"]
    assert made == make_manifest(folder, tmp_path / "again.jsonl", say=lambda line: None)[0]
    assert {**made[1], "duration": 1.0} == {**whole[1], "channels": 2} and made[2:5] == whole[2:5]


def test_headers_alone_say_all_but_damage(tmp_path: Path) -> None:
    """--check header: the same rows without reading the sound, and so without finding silence or what is cut off."""
    (tmp_path / "in").mkdir()
    for name, sound in (("a", noise(3)), ("mono", noise(3)[:, 0]), ("short", noise(0.01)), ("silent", noise(3) * 0)):
        soundfile.write(tmp_path / "in" / f"{name}.wav", sound, 16000)
    (tmp_path / "in" / "text.wav").write_text("no sound")
    quick, full = (
        make_manifest(tmp_path / "in", tmp_path / check, 2, say=lambda line: None, check=check)[0]
        for check in ("header", "full")
    )
    assert [row["id"] for row in quick] == ["a", "silent"] and quick[:1] == full
    reasons = {Path(row["audio_filepath"]).stem: row["error"] for row in read_jsonl(f"{tmp_path}/header.errors")}
    assert reasons.keys() == {"mono", "short", "text"} and "1 channel, 2 are needed" in reasons["mono"]
