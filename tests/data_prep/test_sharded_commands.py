"""Listing and codebooks by commands in shards: the bytes of one run, and one line where a shard is wrong or missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

pytestmark = pytest.mark.commands

TRAIN = ["--clusters", "12", "--max-frames", "600"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    root = tmp_path_factory.mktemp("my speech é")
    call, rate = soundfile.read(data / "speech" / "calls" / "google_two_channel.flac")
    for number in range(5):
        soundfile.write(root / f"{number} é.wav", call[number * rate : (number + 1) * rate, : 1 + number % 2], rate)
    (root / "2.mp3").write_text("no sound")
    return root


def test_shards_of_commands_are_one_run(folder: Path, tmp_path: Path, here, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(script: str, *words: object) -> str:
        status, printed, error = here(f"data_prep/{script}.py", *words)
        assert status == 0, error
        return printed

    def refused(script: str, *words: object) -> str:
        status, _, error = here(f"data_prep/{script}.py", *words)
        assert status == 2 and len(error.splitlines()) == 1
        return error

    one, many = tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    run("make_manifest", folder, one)
    assert "shard 0/2: 3 of 3 recordings" in run("make_manifest", folder, many, "--shard", "0/2")
    assert "lacks shard 1 of 2: run it with --shard 1/2" in refused("merge_manifest", many)
    with monkeypatch.context() as slurm:
        for name, value in {"ID": 1, "COUNT": 2, "MIN": 0, "MAX": 1}.items():
            slurm.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        assert "another division than --shard 1/3" in refused("make_manifest", folder, many, "--shard", "slurm:3")
        assert "shard 1/2: 2 of 3 recordings" in run("make_manifest", folder, many, "--shard", "slurm")
        # Nothing is split unless it is asked for, and one shard of one is the whole.
        for name, shard in (("sweep", ()), ("whole", ("--shard", "0/1"))):
            assert "5 of 6 recordings" in run("make_manifest", folder, tmp_path / f"{name}.jsonl", *shard)
            assert (tmp_path / f"{name}.jsonl").read_bytes() == one.read_bytes()
    assert "5 rows" in run("merge_manifest", many)
    for ending in ("", ".errors"):
        assert Path(f"{many}{ending}").read_bytes() == Path(f"{one}{ending}").read_bytes()

    book = tmp_path / "many"
    run("train_codebook", one, tmp_path / "one", *TRAIN)
    assert "frames of 2 recordings" in run("train_codebook", one, book, *TRAIN, "--shard", "1/2")
    assert "lacks shard 0 of 2" in refused("train_codebook", one, book, *TRAIN) and not book.exists()
    for wrong in ("5/4", "1"):
        for command in (("train_codebook", one, book), ("make_manifest", folder, many)):
            assert wrong in refused(*command, "--shard", wrong)
    run("train_codebook", one, book, *TRAIN, "--shard", "0/2")
    run("train_codebook", one, book, *TRAIN)
    assert book.read_bytes() == (tmp_path / "one").read_bytes()
    assert not list(tmp_path.glob("*.npy*"))
