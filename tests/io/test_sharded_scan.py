"""A folder listed in shards: joined, byte by byte what one run writes; and what does not fit together is told."""

from __future__ import annotations

import os
import random
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.io import scan as listing
from speechdlm_ext.io.scan import make_manifest
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.merging import merge


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good files and bad ones, in an order that shards see in part only; names that text and paths sort differently."""
    root = tmp_path / "my speech é"
    places = ["a/call.wav", "a-b/call.wav", "a.wav", "Ž/x y.flac", "zz/deep/er/“q”.wav", "m.wav", "n.wav", "o.wav"]
    for number, name in enumerate(places):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        sound = 0.1 * np.random.default_rng(number).standard_normal((4000 + 800 * number, 1 + number % 2))
        soundfile.write(root / name, sound, (8000, 16000)[number % 2])
    soundfile.write(root / "a-b/silent.wav", np.zeros(8000), 8000)
    (root / "b.mp3").write_text("no sound")
    (root / "zz/empty.wav").touch()
    for name in (b"m\xff.wav", b"m\xfe.wav"):  # not UTF-8, and alike as text
        (root / os.fsdecode(name)).touch()
    return root


def contents(path: Path) -> list[bytes | None]:
    files = [path, Path(f"{path}.errors")]
    return [file.read_bytes() if file.exists() else None for file in files]


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_shards_joined_are_one_run(tmp_path: Path, folder: Path, count: int) -> None:
    make_manifest(folder, tmp_path / "one", say=quiet)
    order = list(range(count))
    random.Random(count).shuffle(order)
    files = 0
    for index in order:
        used, seen = make_manifest(folder, tmp_path / "m", say=quiet, shard=Shard(index, count))
        files += seen
        assert len(used) <= seen <= 13 // count + 1
    assert files == 13
    merge(tmp_path / "m", [], tmp_path / "m", say=quiet)
    assert contents(tmp_path / "m") == contents(tmp_path / "one") and None not in contents(tmp_path / "one")
    # Named one by one, into another file; and the same again.
    merge(tmp_path / "m", [Shard(index, count).path(tmp_path / "m") for index in order], tmp_path / "n", say=quiet)
    merge(tmp_path / "m", [], tmp_path / "m", say=quiet)
    assert contents(tmp_path / "m") == contents(tmp_path / "n") == contents(tmp_path / "one")
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*"))


def test_what_does_not_fit_is_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"no .*m.shard-0-of-…: name the shards"):
        merge(tmp_path / "m", [], tmp_path / "m", say=quiet)
    for index in (0, 2):
        make_manifest(folder, tmp_path / "m", say=quiet, shard=Shard(index, 3))
    with pytest.raises(InputError, match="m lacks shard 1 of 3: run it with --shard 1/3"):
        merge(tmp_path / "m", [], tmp_path / "m", say=quiet)
    named = [Shard(index, 3).path(tmp_path / "m") for index in (0, 2)]
    with pytest.raises(InputError, match="m lacks the shards 1/3: run --shard 1/3, or pass --allow-missing"):
        merge(tmp_path / "m", named, tmp_path / "m", say=quiet)
    assert 0 < merge(tmp_path / "m", named, tmp_path / "some", allow_missing=True, say=quiet) < 8
    # A file that comes in between moves others to another shard: one would be there twice, one not at all.
    soundfile.write(folder / "a-b" / "new.wav", np.ones(8000) * 0.1, 8000)
    make_manifest(folder, tmp_path / "m", say=quiet, shard=Shard(1, 3))
    with pytest.raises(InputError, match="not of the same files .*the folder has changed in between"):
        merge(tmp_path / "m", [], tmp_path / "m", say=quiet)
    assert not (tmp_path / "m").exists()
    for index in range(3):
        make_manifest(folder, tmp_path / "m", overwrite=True, say=quiet, shard=Shard(index, 3))
    (tmp_path / "m").write_text('{"id": "mine", "audio_filepath": "x.wav"}\n')
    with pytest.raises(InputError, match="m is there already and says something else: pass --overwrite"):
        merge(tmp_path / "m", [], tmp_path / "m", say=quiet)
    assert merge(tmp_path / "m", [], tmp_path / "m", overwrite=True, say=quiet) == 9


def test_no_usable_file_at_all(tmp_path: Path) -> None:
    """A shard may be without; all of them together may not, as one run may not."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.wav").touch()
    for index in range(2):
        assert make_manifest(tmp_path / "in", tmp_path / "m", say=quiet, shard=Shard(index, 2)) == ([], 1)
    with pytest.raises(InputError, match="none of 2 audio files can be used; the first: .*a.wav is empty"):
        merge(tmp_path / "m", [], tmp_path / "m", say=quiet)


def test_a_long_file_holds_up_no_other(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been read is kept at once, also while the first file is still being read."""
    go_on, scan, kept = Event(), listing._scan, []

    def slow(path: Path, *options: object) -> dict:
        assert path.name != "call.wav" or "a-b" in path.parts or go_on.wait(60)
        return scan(path, *options)

    def watched(items, count):
        for item in items:
            yield item
            kept.append((tmp_path / "m.partial").read_bytes().count(b"\n") - 1)
            if len(kept) == count - 1:
                go_on.set()

    monkeypatch.setattr(listing, "_scan", slow)
    make_manifest(folder, tmp_path / "m", workers=2, progress=watched, say=quiet)
    assert kept == list(range(1, 14))
