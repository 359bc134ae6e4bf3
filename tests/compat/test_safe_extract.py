"""Model archives stay in their folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from speechdlm_ext.errors import InputError


def _write(path: Path, *members: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            data = b"x" * member.size
            archive.addfile(member, io.BytesIO(data))


def _file(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = 1
    return member


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    from fairseq.file_utils import load_archive_file

    path = tmp_path / "model.tar.gz"
    _write(path, _file("model/model.pt"), _file("model/dict.txt"), _link("model/last.pt", "model.pt"))
    folder = load_archive_file(str(path))
    assert sorted(found.name for found in Path(folder).iterdir()) == ["dict.txt", "last.pt", "model.pt"]


@pytest.mark.parametrize(
    "members",
    [
        [_file("model/model.pt"), _file("../outside")],
        [_file("/tmp/outside-of-the-test")],
        [_link("model/out", "../../.."), _file("model/out/outside")],
        [_link("model/out", "/etc/passwd", tarfile.LNKTYPE)],
        [_link("model/device", "", tarfile.CHRTYPE)],
    ],
    ids=["up", "absolute", "symbolic link", "hard link", "device"],
)
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    from fairseq.file_utils import load_archive_file

    path = tmp_path / "model.tar.gz"
    _write(path, *members)
    with pytest.raises(InputError, match="outside of the archive's folder"):
        load_archive_file(str(path))
    assert path.is_file() and not list(tmp_path.glob("**/outside"))
