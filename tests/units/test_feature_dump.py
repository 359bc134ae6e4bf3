"""Features of many recordings in one file: the right ones, and the same however often it was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.manifest import write_jsonl
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.feature_dump import dump_features, remove_dump
from speechdlm_ext.units.kmeans import train_codebook
from tests.helpers.features import sample_features, sampling_share


@pytest.fixture
def rows(tmp_path: Path, data: Path) -> list[dict[str, Any]]:
    wave, rate = read_audio(data / "speech" / "calls" / "google_two_channel.flac")
    made = []
    for number in range(8):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, wave[: 1 + number % 2, number * 10000 : number * 10000 + 32000].numpy().T, rate)
        made.append({"id": str(number), "audio_filepath": str(path), "channels": 1 + number % 2, "duration": 2.0})
    return made


class Stop(Exception):
    """Stands for a kill."""


def stopping_after(count: int) -> Any:
    def progress(items: Iterable[Any], seconds: float) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == count:
                raise Stop
            yield item

    return progress


def quiet(line: str) -> None:
    """Say nothing."""


def test_the_same_features_however_often_it_was_stopped(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    encoder, path = LogMelEncoder(), tmp_path / "features.npy"
    expected, levels = sample_features(rows, encoder, 400, seed=3)
    share = sampling_share(rows, encoder, 400)
    assert share == pytest.approx(400 / 1200) and 300 < len(expected) < 500
    for count in (3, 0, 2):
        with pytest.raises(Stop):
            dump_features(rows, encoder, path, share, 3, stopping_after(count), quiet)
    # A kill between a recording's frames and their entry in the account, and in the middle of the frames.
    with open(path, "ab") as file:
        file.write(np.ones((5, 40), np.float32).tobytes() + b"abc")
    said: list[str] = []
    found, found_levels = dump_features(rows, encoder, path, share, 3, say=said.append)
    assert said == ["5 of 8 recordings are done already"]
    assert np.array_equal(found, expected.numpy()) and found_levels == levels
    assert np.array_equal(np.load(path), expected.numpy())
    # Other frames are asked for, the file is lost, the encoder or a recording is another: all of it is made anew.
    for change in ("seed", "file", "encoder", "recording"):
        seed = 4 if change != "seed" else 5
        if change == "file":
            path.unlink()
        if change == "recording":
            soundfile.write(rows[7]["audio_filepath"], np.ones((32000, 2)) * 0.1, 16000)
        other = LogMelEncoder(floor_db=-40) if change == "encoder" else encoder
        again, _ = dump_features(rows, other, path, share, seed, say=quiet)
        assert torch.equal(torch.from_numpy(np.array(again)), sample_features(rows, other, 400, seed)[0])
    remove_dump(path)
    assert not list(tmp_path.glob("features*"))


def test_bad_recordings_are_left_out(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    Path(rows[2]["audio_filepath"]).write_text("no sound")
    said: list[str] = []
    found, _ = dump_features(rows, LogMelEncoder(), tmp_path / "f.npy", 1.0, 1, say=said.append)
    good = [row for row in rows if row["id"] != "2"]
    assert np.array_equal(found, sample_features(good, LogMelEncoder(), 10**9, 1)[0].numpy())
    assert len(said) == 1 and "skipped" in said[0] and "2.wav is not audio" in said[0]
    with pytest.raises(InputError, match="none of 1 recordings could be read; the first: .*not audio"):
        dump_features(rows[2:3], LogMelEncoder(), tmp_path / "none.npy", 1.0, 1, say=quiet)


def test_minibatches_find_what_all_frames_find(tmp_path: Path) -> None:
    """Five far clusters, from a mapped file: the same centroids by both, and equal files each time."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(5, 40, generator=generator) * 50
    features = centres[torch.randint(5, (10_000,), generator=generator)] + torch.randn(10_000, 40, generator=generator)
    np.save(tmp_path / "f.npy", features.numpy())
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    full = train_codebook(features, LogMelEncoder(), 5, 1)
    mini = train_codebook(mapped, LogMelEncoder(), 5, 1, algorithm="minibatch")
    again = train_codebook(mapped, LogMelEncoder(), 5, 1, algorithm="minibatch")
    assert torch.equal(mini.centroids, again.centroids) and mini.extra == again.extra
    expected = centres[centres.mean(dim=1).argsort()]
    torch.testing.assert_close(full.centroids, expected, rtol=0, atol=0.1)
    torch.testing.assert_close(mini.centroids, expected, rtol=0, atol=0.5)
    assert mini.extra["algorithm"] == "minibatch" and "algorithm" not in full.extra
    assert sum(mini.extra["counts"]) == 10_000
    assert mini.extra["mean_square_error"] == pytest.approx(full.extra["mean_square_error"], rel=0.05)
    with pytest.raises(InputError, match="--algorithm lloyd: there is full, minibatch, faiss"):
        train_codebook(mapped, LogMelEncoder(), 5, 1, algorithm="lloyd")
    try:
        import faiss  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="faiss is not installed"):
            train_codebook(mapped, LogMelEncoder(), 5, 1, algorithm="faiss")
    else:
        found = train_codebook(mapped, LogMelEncoder(), 5, 1, algorithm="faiss")
        torch.testing.assert_close(found.centroids, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("count", [2, 11])
def test_shards_of_features_are_those_of_one_run(tmp_path: Path, rows: list[dict[str, Any]], count: int) -> None:
    """Made in any order, stopped in between, one recording of no use: the same frames, and then the same codebook."""
    encoder, path = LogMelEncoder(), tmp_path / "features.npy"
    Path(rows[5]["audio_filepath"]).write_text("no sound")
    expected, levels = dump_features(rows, encoder, tmp_path / "one.npy", 0.4, 3, say=quiet)
    book = train_codebook(expected, encoder, 10, 1, levels)
    for index in reversed(range(count)):
        shard = Shard(index, count)
        if index == 1:
            with pytest.raises(Stop):
                dump_features(rows, encoder, path, 0.4, 3, stopping_after(0), quiet, shard=shard)
            with pytest.raises(InputError, match=rf"lacks shard 0 of {count}: run it with --shard 0/{count}"):
                dump_features(rows, encoder, path, 0.4, 3, say=quiet)
        if index == 0 and count == 2:
            dump_features(rows, encoder, path, 0.4, 4, say=quiet, shard=shard)
            with pytest.raises(InputError, match="shard-0-of-2 is of other recordings or settings: run --shard 0/2"):
                dump_features(rows, encoder, path, 0.4, 3, say=quiet)
        dump_features(rows, encoder, path, 0.4, 3, say=quiet, shard=shard)
    if count == 2:
        dump_features(rows, encoder, path, 0.4, 4, say=quiet, shard=Shard(1, 2))
        with pytest.raises(Stop):
            dump_features(rows, encoder, path, 0.4, 3, stopping_after(1), quiet, shard=Shard(1, 2))
        with pytest.raises(InputError, match="shard-1-of-2 has 1 of 4 recordings: run --shard 1/2 to its end"):
            dump_features(rows, encoder, path, 0.4, 3, say=quiet)
        dump_features(rows, encoder, path, 0.4, 3, say=quiet, shard=Shard(1, 2))
    with pytest.raises(Stop):  # a kill while they are taken together
        dump_features(rows, encoder, path, 0.4, 3, stopping_after(2), quiet)
    found, found_levels = dump_features(rows, encoder, path, 0.4, 3, say=quiet)
    assert path.read_bytes() == (tmp_path / "one.npy").read_bytes() and found_levels == levels
    train_codebook(found, encoder, 10, 1, found_levels).save(tmp_path / "shards.safetensors")
    book.save(tmp_path / "one.safetensors")
    assert (tmp_path / "shards.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert not list(tmp_path.glob("*shard-*"))


def test_a_full_disk_is_one_line_and_the_work_goes_on_afterwards(
    tmp_path: Path, rows: list[dict[str, Any]], run_command: Any, run_loaded: Any, checkout: Path
) -> None:
    write_jsonl(tmp_path / "m.jsonl", rows)
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [checkout / "data_prep/train_codebook.py", tmp_path / "m.jsonl", tmp_path / "book", "--clusters", "5"]
    done = run_command(["python", "-c", limited, *command], check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"{tmp_path}/book.features.npy cannot be written" in done.stderr
    for name in ("book", "other"):
        command[2] = tmp_path / name
        run_loaded(["python", *command])
    assert (tmp_path / "book").read_bytes() == (tmp_path / "other").read_bytes()
