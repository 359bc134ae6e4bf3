"""Files that are whole or not there, step by step."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.compat.fairseq.saving import copy_atomically, is_whole, mend_last_checkpoint
from speechdlm_ext.errors import InputError


def _save(path: Path, value: float, seconds: int = 0) -> bytes:
    torch.save({"model": torch.full((100,), value)}, path)
    os.utime(path, (seconds, seconds))
    return path.read_bytes()


def _full_disk(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_copy_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq.file_io import PathManager

    source, target = tmp_path / "checkpoint2.pt", tmp_path / "checkpoint_last.pt"
    new, old = _save(source, 2), _save(target, 1)

    def half(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:50])
        _full_disk()

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(OSError, match="No space"):
            PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint2.pt", "checkpoint_last.pt"]
    assert PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == new


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq import checkpoint_utils

    target = tmp_path / "checkpoint1.pt"
    old = _save(target, 1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", _full_disk)
        with pytest.raises(OSError, match="No space"):
            checkpoint_utils.torch_persistent_save({"model": torch.ones(5)}, str(target))
    assert target.read_bytes() == old and len(list(tmp_path.iterdir())) == 1
    checkpoint_utils.torch_persistent_save({"model": torch.ones(5)}, str(target))
    assert torch.equal(torch.load(target)["model"], torch.ones(5))


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -30, -200])
def test_a_cut_file_is_not_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "checkpoint.pt"
    data = _save(path, 1)
    assert is_whole(path)
    path.write_bytes(data[:cut])
    assert not is_whole(path)


def test_zeros_after_a_power_cut_are_not_whole_and_old_formats_are(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(bytes(1000))
    assert not is_whole(path)
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
    assert is_whole(path)


def test_a_hole_within_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    data = bytearray(_save(path, 1.0))
    place = data.index(torch.full((100,), 1.0).numpy().tobytes())
    data[place + 100 : place + 200] = bytes(100)  # as a crash leaves blocks that never reached the disk
    path.write_bytes(data)
    assert not is_whole(path)


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    from fairseq import checkpoint_utils

    target = tmp_path / "checkpoint1.pt"
    (tmp_path / "checkpoint1.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as refused:
        checkpoint_utils.torch_persistent_save({"model": torch.ones(500_000)}, str(target))
    assert refused.value.filename == str(target) and not list(tmp_path.iterdir())


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last = tmp_path / "checkpoint_last.pt"
    _save(tmp_path / "checkpoint1.pt", 1, seconds=100)
    newest = _save(tmp_path / "checkpoint2.pt", 2, seconds=200)
    (tmp_path / "checkpoint3.pt").write_bytes(_save(tmp_path / "checkpoint3.pt", 3)[:-10])
    _save(tmp_path / "checkpoint_other-shard0.pt", 4, seconds=50)
    last.write_bytes(b"PK\x03\x04")
    with caplog.at_level(logging.WARNING):
        mend_last_checkpoint(str(last))
    assert last.read_bytes() == newest
    assert len(caplog.messages) == 1 and "checkpoint2.pt" in caplog.messages[0]
    caplog.clear()
    mend_last_checkpoint(str(last))
    assert not caplog.messages


def test_without_a_whole_one_there_is_one_line(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint_last.pt"
    last.write_bytes(b"")
    with pytest.raises(InputError, match="no whole checkpoint"):
        mend_last_checkpoint(str(last))
    mend_last_checkpoint(str(tmp_path / "none.pt"))


def test_copies_give_the_target(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert copy_atomically(str(tmp_path / "a"), str(tmp_path / "b")) == str(tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"
