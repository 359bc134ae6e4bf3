"""Archives of published models: unpacked into their folder, and nowhere else."""

from __future__ import annotations

import os
import tarfile
from types import ModuleType
from typing import Any

from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.repair import Repair


class _ArchiveInOneFolder(tarfile.TarFile):
    def extractall(self, path: Any = ".", *args: Any, **options: Any) -> None:
        root = os.path.realpath(path)
        for member in self.getmembers():
            targets = [os.path.join(root, member.name)]
            if member.issym():
                targets.append(os.path.join(os.path.dirname(targets[0]), member.linkname))
            elif member.islnk():
                targets.append(os.path.join(root, member.linkname))
            inside = all((os.path.realpath(target) + os.sep).startswith(root + os.sep) for target in targets)
            if not inside or not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                name = os.fsdecode(self.name or b"archive")
                raise InputError(f"{name}: refused, its member {member.name!r} lies outside of the archive's folder")
        super().extractall(path, *args, **options)


def _unpack_into_one_folder(module: Any) -> None:
    module.tarfile.open  # noqa: B018 - what it calls
    stand_in = ModuleType("tarfile")
    vars(stand_in).update(vars(tarfile))
    vars(stand_in)["open"] = _ArchiveInOneFolder.open
    module.tarfile = stand_in


REPAIRS = [
    Repair(
        name="archives",
        package="fairseq",
        fault="a model archive given to from_pretrained can write files anywhere",
        changes={"fairseq.file_utils": _unpack_into_one_folder},
        security=True,
    ),
]
